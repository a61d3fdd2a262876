"""The JSON answer of every command with --json, and its errors: one line that names the problem and the remedy.

`{"schema_version": 1, "status": "ok", "data": …}` or `{…, "status": "error", "error": {"kind", "message", "exit_code", …}}`; what stands in an
exception's `details` stands beside its message.
"""

from __future__ import annotations

import json
import math
import traceback
from typing import Any, Final

SCHEMA_VERSION: Final = 1


def ok(data: Any) -> str:
    return json.dumps({"schema_version": SCHEMA_VERSION, "status": "ok", "data": finite(data)}, ensure_ascii=False, default=str)


def failed(error: BaseException, exit_code: int) -> str:
    body = {"kind": type(error).__name__, "message": one_line(error), "exit_code": exit_code, **finite(getattr(error, "details", {}))}
    return json.dumps({"schema_version": SCHEMA_VERSION, "status": "error", "error": body}, ensure_ascii=False, default=str)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def fault(error: Exception, program: str) -> RuntimeError:
    """Our own mistake, for people who did not make it: what, and where, without a traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" in {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in last)
    return RuntimeError(f"{type(error).__name__}: {one_line(error)} (a fault of {program}{where}; --debug shows the way to it)")


def finite(value: Any) -> Any:
    """NaN and infinity are not JSON: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
