"""Writes what compose.yaml needs and no repository holds: `secrets/`, and files of settings.

    python3 deploy/make_secrets.py              # passwords; says which files are for you to fill in
    python deploy/make_secrets.py --offline     # everything, for the offline Lean

What is there already stays as it is.
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

HERE = Path(__file__).resolve().parent
OFFLINE_URL = "http://127.0.0.1:8600"
WHERE = {
    "LEAN_CLIENT_SECRET": "Lean's dashboard, Integration: client secret",
    "LEAN_WEBHOOK_SECRET": "Lean's dashboard, Integration: webhook secret",
    "LEANHOUSE_ALERT_URLS": "where alerts go, see docs/operate.md; empty for nowhere",
}
"""Where the values are found that cannot be made here."""


def offline() -> tuple[dict[str, str], dict[str, str]]:
    """Made-up secrets and settings of the offline Lean, which are the same for the same seed."""
    from lean_resources.sandbox import Sandbox  # noqa: PLC0415 - needs leanhouse's libraries

    lean = Sandbox(customers=1, months=1)
    settings = {
        "LEAN_API_URL": OFFLINE_URL,
        "LEAN_TOKEN_URL": f"{OFFLINE_URL}/oauth2/token",
        "LEAN_CLIENT_ID": lean.client_id,
    }
    values = {"LEAN_CLIENT_SECRET": lean.client_secret, "LEAN_WEBHOOK_SECRET": lean.webhook_secret}
    return values, settings


def main() -> None:
    """Write what is missing, and say what is left to do."""
    parser = argparse.ArgumentParser(description="Write the secrets that compose.yaml names.")
    parser.add_argument("--offline", action="store_true", help="those of the offline Lean")
    parser.add_argument("--into", type=Path, default=HERE, help="folder, beside compose.yaml")
    given = parser.parse_args()
    values, settings = offline() if given.offline else ({}, {})
    password = secrets.token_urlsafe(32)
    wanted = dict.fromkeys(WHERE, "") | {
        "DAGSTER_PG_PASSWORD": secrets.token_urlsafe(32),
        "INBOX_PASSWORD": password,
        "LEAN_WEBHOOK_INBOX": f"postgresql://inbox:{password}@postgres/inbox",
        "LEANHOUSE_HASH_KEY": secrets.token_urlsafe(32),
        **values,
    }
    folder = given.into / "secrets"
    # The folder keeps others out: a container's user has another number, and has to read the files.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / "INBOX_PASSWORD").exists() != (folder / "LEAN_WEBHOOK_INBOX").exists():
        parser.error("INBOX_PASSWORD and LEAN_WEBHOOK_INBOX belong together: remove the other too")
    for name, value in wanted.items():
        file = folder / name
        if not file.exists():
            file.write_text(value)
            file.chmod(0o644)
        if not file.stat().st_size and not given.offline:
            print(f"fill in {file}: {WHERE[name]}")
    usual = {"LEAN_REGION": "sa", "LEAN_ENVIRONMENT": "sandbox", "LEAN_CLIENT_ID": ""}
    environments = {
        "lean.env": usual | settings,
        # The receiver refuses a client's id without its secret, which it does not have.
        "receiver.env": {"LEAN_ENVIRONMENT": usual["LEAN_ENVIRONMENT"]},
    }
    for name, named in environments.items():
        file = given.into / name
        if not file.exists():
            file.write_text("".join(f"{key}={value}\n" for key, value in named.items()))
            if not settings:
                print(f"fill in {file}: what .env.example lists, without secrets")


if __name__ == "__main__":
    main()
