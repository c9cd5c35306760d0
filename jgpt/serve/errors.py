"""Requests that are not answered: the status, and the body in OpenAI's shape.

Owns what clients see of errors; refuses to know where they arise.
"""

import re
from typing import Any, Final

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class RefusedError(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: of HTTP.
        message: what is wrong, what must hold, and what to do.
        param: field of the request that is wrong.
        code: short name of the mistake for programs.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def broken_rule(error: ValueError, param: str | None = None) -> RefusedError:
    """Return the refusal (400) of a request that breaks a rule of jgpt's; options are named as requests name them."""
    return RefusedError(
        400, re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), str(error)), param=param
    )
