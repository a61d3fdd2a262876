"""The verbs of the control API: `Request(verb, arguments)` from fogctl, `Reply(body)` or `Reply(exit_code, error)` back.

Requests come on `ctl/{user}/request~{session}`; replies go to the user's inbox, kind `reply~{session}`. Unknown arguments are
refused. exit_code is that of the CLI: 1 failed, 2 bad input or unknown name, 4 refused. Times are seconds of the coordinator's
clock (`now` is in every body that has times, so that `now - since` is a duration); absent values are null.

| verb | arguments | body |
|---|---|---|
| `ping` | – | `{now, nonce, version, started_at, nodes, nodes_online, jobs_active, denied: [filter]}`; denied: subscriptions that the broker refuses the coordinator |
| `job.submit` | `spec` (job file as builtins), `token`? | `{job, state, repeated}`; repeated: this token was submitted before |
| `job.plan` | `spec` | `{now, name, method, objective, automatic, rounds, tasks: [{task, role, node, tier, site}], choice: PLAN or null, runner_up: PLAN or null, waits_for: [job], unknown: [node never seen], note}`: what would be done with the job now; nothing is. choice is null where the costs of the method are not known (note says so) |
| `job.list` | `active`? (bool) | `{now, jobs: [SUMMARY]}`, newest first |
| `job.status` | `job`, `after`? (history only of later rounds) | `STATUS` |
| `job.cancel` | `job` | `{job, state}`; of an ended job: refused |
| `job.logs` | `job`, `lines`? (default 100, at most 500) | `{now, job, events: [{at, text}]}`, oldest first |
| `job.result` | `job` | `{now, job, state, numbers, rounds, digest, status: STATUS}`; and the weights (safetensors) follow as a letter to `Address(user, "cloud", "cloud", "bulk~{session}")`: to = `@result`, body = msgpack `{job, numbers}`, one blob whose digest is `digest` (no letter if that is '') |
| `top` | – | `{now, nodes: [{node, state, tier, site, since, draining, jobs, cpu_ratio, memory_used_bytes, temperature_celsius, battery_ratio, power_watts, rtt_seconds, bandwidth_bytes_per_second}], jobs: [SUMMARY with accuracy: [number or null], bytes: {up, down, d2d, cast}, energy_j, budgets], jobs_hidden}`; a node's figures are null where unknown |
| `node.list` | – | `{now, nodes: [NODE]}`, sorted by name |
| `node.show` | `node` | `NODE` with `profile`, `workers: [{job, phase, incarnation, view, problems, tasks, gauges, counters}]`, `gauges`, `counters`, `energy_j` |
| `node.drain` | `node`, `undo`? (bool) | `{node, state, moving: [task of job]}` |
| `topology` | `job`?, or `spec`? (a job file as builtins) | `{now, job, nodes: [{id, parent, role, node, site, tier, state, slot, live, note?}]}`: the tree of a job's tasks (of a `spec`: as it would be placed now; of neither: the fleet's), parents before children, parent null for the root |

SUMMARY = `{job, name, method, state, line, round, rounds, nodes, submitted_at, started_at, ended_at, why}`
state: `waiting_nodes | queued | preparing | running | finished | failed | cancelled`; line: one sentence for a person.

STATUS = SUMMARY plus
- `now`, `view`, `user`, `wall_s` (since started_at, until ended_at; 0 before), `problems: [text]`
- `refused`: the job failed because the preflight found that its nodes cannot run it as it is (`problems` say why)
- `waits: [{what, who: [node], since, until, since_s, until_s, minor}]`: until and until_s are null when nothing bounds the wait; minor: of a task that waits for one that waits itself
- `watching: [node]`: online nodes that came later and have no slot; they take the next that gets free
- `tasks: [{task, role, slot, parent, node, site, tier, live, incarnation, since, round, labels, note, phase, rss_bytes}]`: note: how the task works, for a person (fog: `d2d: energy: …`)
- `history: [{round, wall_s, updates, examples, bytes, joules, accuracy, loss, …}]`: wall_s since the start, bytes of all planes since the
  start; accuracy and loss are null when not evaluated; the method's further numbers stand beside them
- `metrics`: the last value of every number in the history; after the end also the result's
- `bytes: {up, down, d2d, cast, ctl, total, ideal}`: total = up + down + d2d + cast, payloads on the wire; ideal: the tensors alone
- `step_bytes: {steps, formula, paper, measured, tensors, error}`: of a training step; null where the method has no formula or a fact of the model or
  the data is not known to the coordinator. formula: tensors alone, as built; paper: as the paper counts; measured (with headers,
  acknowledgements, copies of Saves), tensors (alone) and error = (measured - formula) / formula are null until the job is finished
- `energy_j: {value, source}`: source measured | fitted | modelled | '' (nothing known: value null)
- `budgets: [{budget, used, limit, ratio, node}]`: budget time | bytes | joules | node_cpu | node_bytes | node_joules (node: the one that used most); used and ratio are null while unknown
- `plan`: null where the costs of the method are not known, else `{predicted: PLAN, runner_up: PLAN or null, measured: {step_s, steps, step_bytes?, step_joules?}
  or null (before two rounds are closed), error}`: error = (predicted - measured step_s) / measured
- `buddies: {task: node}`, `digest` ('' before the end)

PLAN = `{title, settings, places: {role: node}, step_s, step_bytes, step_joules, round_steps, total_s, value, parts: [{what, seconds}], guessed: [text],
assumed: [text], source: "modelled"}`: of one training step, with its share of what a round costs besides; guessed: figures of nodes that nobody has
measured yet; assumed: watts and joules per byte that nobody has configured

NODE = `{node, state, since, tier, site, draining, jobs: [job], cores, memory_bytes, memory_free_bytes, torch, datasets, version, note}`
state: `online | offline | unknown` (not heard of since the coordinator's start); note: one line for a person, e.g. what a drain waits for.
"""
