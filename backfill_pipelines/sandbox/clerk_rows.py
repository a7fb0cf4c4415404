"""Rows and errors of the fake Clerk as JSON.

Belongs here: shapes, as the vendor's OpenAPI text has them (clerk/openapi-specs, bapi/2026-05-12.yml), and the error
bodies that users of Clerk have published. Does not belong here: which rows a request gets.
"""

from __future__ import annotations

from typing import Any

from backfill_pipelines.sandbox.clerk_data import ClerkEmail, ClerkMembership, ClerkOrganization, ClerkUser
from backfill_pipelines.sandbox.exchange import Answer, RefusalError

Row = dict[str, Any]

TRACE_ID = "5a4db0c5e0b14c0fb1d0000000000000"


def user_row(user: ClerkUser) -> Row:
    """A user, with every field the vendor requires."""
    row: Row = {
        "id": user.id,
        "object": "user",
        "external_id": None,
        "primary_email_address_id": user.primary_email_id,
        "primary_phone_number_id": None,
        "primary_web3_wallet_id": None,
        "username": user.username,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "locale": None,
        "has_image": False,
        "public_metadata": {},
        "private_metadata": None,
        "unsafe_metadata": {},
        "email_addresses": [_email_row(each, user.created_at) for each in user.emails],
        "phone_numbers": [],
        "web3_wallets": [],
        "passkeys": [],
        "password_enabled": True,
        "two_factor_enabled": False,
        "totp_enabled": False,
        "backup_code_enabled": False,
        "mfa_enabled_at": None,
        "mfa_disabled_at": None,
        "external_accounts": [],
        "saml_accounts": [],
        "enterprise_accounts": [],
        "last_sign_in_at": user.last_sign_in_at,
        "banned": user.banned,
        "locked": user.locked,
        "deprovisioned": user.deprovisioned,
        "lockout_expires_in_seconds": None,
        "verification_attempts_remaining": 100,
        "created_at": user.created_at,
        "updated_at": user.last_sign_in_at or user.created_at,
        "delete_self_enabled": True,
        "create_organization_enabled": True,
        "last_active_at": user.last_active_at,
        "legal_accepted_at": None,
    }
    if user.image_url is not None:
        row["image_url"] = user.image_url
        row["profile_image_url"] = user.image_url
    return row


def _email_row(email: ClerkEmail, created_at: int) -> Row:
    linked = [{"type": "oauth_google", "id": f"{email.id}l"}] if email.strategy == "from_oauth_google" else []
    return {
        "id": email.id,
        "object": "email_address",
        "email_address": email.address,
        "reserved": False,
        "verification": None if email.status is None else _verification_row(email),
        "linked_to": linked,
        "matches_sso_connection": False,
        "created_at": created_at,
        "updated_at": created_at,
    }


def _verification_row(email: ClerkEmail) -> Row:
    kind = "verification_from_oauth" if email.strategy == "from_oauth_google" else "verification_otp"
    return {
        "object": kind,
        "status": email.status,
        "strategy": email.strategy,
        "attempts": 1,
        "expire_at": None if email.status == "verified" else 1_704_701_400_000,
    }


def organization_row(organization: ClerkOrganization, *, members_count: int | None) -> Row:
    """An organization; `members_count` is None where nobody asked for it."""
    row: Row = {
        "object": "organization",
        "id": organization.id,
        "name": organization.name,
        "slug": organization.slug,
        "image_url": f"https://img.clerk.test/{organization.id}",
        "has_image": False,
        "max_allowed_memberships": 0,
        "admin_delete_enabled": True,
        "public_metadata": {},
        "private_metadata": {},
        "created_at": organization.created_at,
        "updated_at": organization.created_at,
    }
    if members_count is not None:
        row["members_count"] = members_count
    return row


def membership_row(membership: ClerkMembership, user: ClerkUser, organization: ClerkOrganization) -> Row:
    """A membership: the whole organization and the public part of the user stand in it."""
    primary = next((each.address for each in user.emails if each.id == user.primary_email_id), None)
    image_url = user.image_url or ""
    return {
        "object": "organization_membership",
        "id": membership.id,
        "role": membership.role,
        "role_name": membership.role.removeprefix("org:").title(),
        "permissions": ["org:sys_profile:manage"] if membership.role == "org:admin" else [],
        "public_metadata": {},
        "private_metadata": {},
        "organization": organization_row(organization, members_count=None),
        "public_user_data": {
            "user_id": user.id,
            "first_name": user.first_name,
            "last_name": user.last_name,
            "profile_image_url": image_url,
            "image_url": image_url,
            "has_image": False,
            "identifier": primary or user.username,
            "username": user.username,
            "banned": user.banned,
            "deprovisioned": user.deprovisioned,
        },
        "created_at": membership.created_at,
        "updated_at": membership.created_at,
    }


# --- errors ----------------------------------------------------------------------------------------------------------


def error(status: int, code: str, message: str, long_message: str, **meta: str) -> Answer:
    """The vendor's error body."""
    details: Row = {"message": message, "long_message": long_message, "code": code}
    if meta:
        details["meta"] = meta
    return Answer.json(status, {"errors": [details], "clerk_trace_id": TRACE_ID})


def key_invalid() -> RefusalError:
    """401: no key, or one of no instance."""
    text = "The provided Clerk Secret Key is invalid. Make sure that your Clerk Secret Key is correct."
    return RefusalError(error(401, "clerk_key_invalid", text, text))


def forbidden() -> RefusalError:
    """403: the key may not do this."""
    text = "You are not authorized to perform this request"
    return RefusalError(error(403, "authorization_invalid", "Unauthorized request", text))


def organizations_disabled() -> RefusalError:
    """403 of every request about organizations in an instance that has none."""
    text = (
        "The organizations feature is not enabled for this instance. You can enable it at https://dashboard.clerk.com."
    )
    return RefusalError(error(403, "organization_not_enabled_in_instance", "access denied", text))


def not_found() -> Answer:
    """404 of a record or a path."""
    return error(404, "resource_not_found", "not found", "No resource was found with the given id.")


def value_invalid(name: str, value: str) -> RefusalError:
    """422: `10.0 does not match one of the allowed values for parameter limit`."""
    text = f"{value} does not match one of the allowed values for parameter {name}"
    return RefusalError(error(422, "form_param_value_invalid", "is invalid", text, param_name=name))


def parameter_unknown(name: str) -> RefusalError:
    """422: the instance does not have this parameter."""
    text = f"{name} is not a valid parameter for this request."
    return RefusalError(error(422, "form_param_unknown", "is unknown", text, param_name=name))


def version_invalid() -> RefusalError:
    """400: no such version of the API, or two of them at once."""
    return RefusalError(error(400, "api_version_invalid", "is invalid", "The API version is invalid."))


def not_in_the_sandbox(name: str) -> RefusalError:
    """422: a parameter that the vendor has and the sandbox has not. The vendor would have filtered."""
    text = f"The sandbox does not have the parameter {name}."
    return RefusalError(error(422, "not_in_the_sandbox", "not in the sandbox", text))


def rate_limited(retry_after_seconds: int) -> Answer:
    """429: the header states whole seconds."""
    text = "Too many requests. Please try again in a bit."
    answer = error(429, "too_many_requests", "Too many requests", text)
    answer.headers = {"Retry-After": str(retry_after_seconds)}
    return answer


__all__ = [
    "Row",
    "error",
    "forbidden",
    "key_invalid",
    "membership_row",
    "not_found",
    "not_in_the_sandbox",
    "organization_row",
    "organizations_disabled",
    "parameter_unknown",
    "rate_limited",
    "user_row",
    "value_invalid",
    "version_invalid",
]
