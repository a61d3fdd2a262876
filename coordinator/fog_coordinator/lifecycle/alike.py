"""Facts that all workers of a job must share: the meaning of the labels, and the file with the first weights. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fog_common.wire.messages import ClassSet, WorkerState
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Registry
from fog_coordinator.state.troubles import listed


def unequal(job: Job, registry: Registry) -> str:
    """Reason for which the job's ready workers cannot train together; '' if they can."""
    return _unequal_classes(job, registry) or _unequal_weights(job, registry)


def agree(job: Job, registry: Registry) -> None:
    """Note the shared facts in the job, for workers that join late."""
    for _, worker in _workers(job, registry):
        job.classes, job.weights = job.classes or worker.classes, job.weights or worker.weights


def misfit(job: Job, worker: WorkerState) -> str:
    """Reason for which a worker that joined late cannot take part; '' if it can. It may return with other files."""
    mine, theirs = worker.classes, job.classes
    if mine is not None and theirs is not None and mine.digest != theirs.digest:
        return (
            f"its labels mean {_meant(mine)}, those of the job {_meant(theirs)}; give it the same classes under the same names and restart its agent"
        )
    if mine is not None and theirs is not None and mine.outputs != theirs.outputs:
        return f"its data has {mine.outputs} classes, the job's model {theirs.outputs}; say model.classes in the job file"
    if job.weights and worker.weights != job.weights:
        name = (job.spec.get("model") or {}).get("weights", "")
        return f"its file of model.weights {name} is {worker.weights or 'none'}, the job began with {job.weights}; copy it from another node and restart its agent"
    return ""


def _unequal_classes(job: Job, registry: Registry) -> str:
    """'' if the labels of all nodes mean the same. Each node numbers words by itself, so all need the same words."""
    classes = {name: worker.classes for name, worker in _workers(job, registry) if worker.classes}
    outputs, meanings = _alike({name: each.outputs for name, each in classes.items()}), _alike({name: each.digest for name, each in classes.items()})
    if len(meanings) > 1:
        groups = "; ".join(f"{listed(nodes, 4)} {'has' if len(nodes) == 1 else 'have'} {_meant(classes[nodes[0]])}" for nodes in meanings)
        return f"the nodes' labels do not mean the same: {groups}; give every node all classes under the same names, or whole numbers as labels"
    if len(outputs) > 1:
        groups = "; ".join(f"{classes[nodes[0]].outputs} on {listed(nodes, 4)}" for nodes in outputs)
        return (
            f"the nodes' data has different numbers of classes: {groups}; say model.classes: {max(each.outputs for each in classes.values())} or more"
        )
    return ""


def _unequal_weights(job: Job, registry: Registry) -> str:
    """'' if all nodes begin with the same weights."""
    digests = {name: worker.weights for name, worker in _workers(job, registry)}
    files = _alike(digests)
    if len(files) < 2:
        return ""
    name = (job.spec.get("model") or {}).get("weights", "")
    groups = "; ".join(f"{listed(nodes, 4)} {'has' if len(nodes) == 1 else 'have'} {digests[nodes[0]] or 'none'}" for nodes in files)
    return f"model.weights {name} is not the same file on all nodes: {groups}; copy one of them to all"


def _alike(of: Mapping[str, Any]) -> list[list[str]]:
    """Groups of nodes with the same value, the first node's group first."""
    groups: dict[Any, list[str]] = {}
    for name, value in of.items():
        groups.setdefault(value, []).append(name)
    return list(groups.values())


def _meant(classes: ClassSet) -> str:
    if not classes.digest:
        return f"the numbers 0 to {classes.labels - 1}"
    return ", ".join(classes.names) + (f" and {classes.labels - len(classes.names)} more" if classes.labels > len(classes.names) else "")


def _workers(job: Job, registry: Registry) -> Iterator[tuple[str, WorkerState]]:
    for name in sorted(job.participants()):
        node = registry.get(name)
        if node is not None and job.id in node.workers:
            yield name, node.workers[job.id]
