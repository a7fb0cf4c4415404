"""The error bodies of Convex.

Belongs here: status, code and wording. Does not belong here: when each is due. Source: get-convex/convex-backend
(crates/local_backend, crates/common/src/http, crates/keybroker, crates/udf/src/validation.rs).
"""

from __future__ import annotations

from backfill_pipelines.sandbox.exchange import Answer, RefusalError

DOCUMENTED_PERMISSIONS = {
    "query": "runInternalQueries",
    "mutation": "runInternalMutations",
    "action": "runInternalActions",
}


def refusal(status: int, code: str, message: str) -> RefusalError:
    """An error of the vendor's form."""
    return RefusalError(answer(status, code, message))


def answer(status: int, code: str, message: str) -> Answer:
    """The same as an answer."""
    return Answer.json(status, {"code": code, "message": message})


def bad_admin_key() -> RefusalError:
    """The key was made for another deployment, or by nobody."""
    return refusal(401, "BadAdminKey", "The provided admin key was invalid for this instance")


def bad_deploy_key(deployment: str) -> RefusalError:
    """A route for admins, and the caller is none."""
    return refusal(
        403,
        "BadDeployKey",
        f"The provided deploy key was invalid for deployment '{deployment}'. Double check that the environment this "
        "key was generated for matches the desired deployment.",
    )


def malformed_header() -> RefusalError:
    """An Authorization header that is neither of the two kinds."""
    return refusal(400, "InvalidHeaderFailure", "Malformed Authorization header.")


def not_permitted(kind: str) -> RefusalError:
    """The key lacks the permission for internal functions of this kind."""
    return refusal(403, "OperationNotPermitted", not_permitted_text(kind))


def not_permitted_text(kind: str) -> str:
    """The wording of it."""
    operation = f"deployment:functions:{DOCUMENTED_PERMISSIONS[kind]}"
    return f"You do not have permission to perform this operation ({operation})."


def bad_body(message: str) -> RefusalError:
    """The body is not what the route takes."""
    return refusal(400, "BadJsonBody", message)


def bad_format(name: str) -> RefusalError:
    """A format that does not exist."""
    return refusal(400, "BadFormat", f"format param must be one of [`json`]. Got {name}")


def body_too_large() -> RefusalError:
    """More than 16 MiB."""
    return refusal(413, "RequestTooLarge", "Request body is too large.")


def too_many_requests() -> Answer:
    """All slots are taken. There is no Retry-After."""
    return answer(429, "TooManyConcurrentRequests", "Too many concurrent requests, backoff and try again.")


def write_conflict() -> Answer:
    """Others wrote the same documents, four times in a row."""
    return answer(
        503,
        "OptimisticConcurrencyControlFailure",
        "Data read or written in this mutation changed while it was being run. Consider reducing the amount of data "
        "read by using indexed queries with selective index range expressions.",
    )


def overloaded() -> Answer:
    """The deployment has too much to do and did not begin."""
    return answer(503, "ExpiredInQueue", "Too many concurrent requests, backoff and try again.")


def no_such_route() -> Answer:
    """The deployment has no such path."""
    return answer(404, "NotFound", "No matching routes found")


def function_not_found(path: str) -> str:
    """Also for an internal function that the caller may not see."""
    return (
        f"Could not find public function for '{path}'. Did you forget to run `npx convex dev` or `npx convex deploy`?"
    )


def wrong_function_type(path: str, *, called_as: str, defined_as: str) -> str:
    """A query was called as a mutation, or the other way round."""
    module, _, name = path.partition(":")
    return (
        f"Trying to execute {module}.js:{name} as {called_as.capitalize()}, but it is defined as "
        f"{defined_as.capitalize()}."
    )


PAUSED = (
    "Cannot run functions while this deployment is paused. Resume the deployment in the dashboard settings to allow "
    "functions to run."
)
