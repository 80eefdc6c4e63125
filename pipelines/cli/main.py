"""The command line, one function per command.

Each command imports what it needs itself, so that none waits for what others need.
"""

import asyncio
import contextlib
import datetime as dt
import difflib
import re
import signal
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from lean_resources.errors import LeanError, MachineError
from lean_resources.machine import machine_error
from pipelines.cli.children import child
from pipelines.cli.console import plain_console, say, standard_output, visible
from pipelines.cli.signals import end_on_signals, received
from pipelines.shipped import DEFAULT_HOME

if TYPE_CHECKING:
    from lean_resources.sandbox import Server
    from pipelines.lake.lake import Lake

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_homes: list[Path] = []
"""Homes of this process; the last is at hand, and named where trouble names no file."""
_OPTION = re.compile(r"--[\w-]*(=|\Z)")

Customers = Annotated[int, typer.Option(min=0, help="Customers of the offline application.")]
Months = Annotated[int, typer.Option(min=1, max=60, help="Months of history.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same world.")]
Home = Annotated[Path | None, typer.Option(help="Folder of the state; LEANHOUSE_HOME or var.")]


class Readers(StrEnum):
    """For whom `publish` writes a file of its own."""

    ANALYSTS = "analysts"


class CertificateFault(StrEnum):
    """What the demo can get wrong on purpose under mTLS."""

    NO_CLIENT = "no-client-certificate"
    EXPIRED_CLIENT = "expired-client-certificate"
    FOREIGN_CLIENT = "foreign-client-certificate"
    FOREIGN_SERVER = "foreign-server-certificate"


def _fail(message: str) -> typer.Exit:
    if (number := received()) is not None:
        return typer.Exit(128 + number)
    text = Text.assemble(("error", "red"), " ", visible(message, keeps="\n"))
    plain_console(stderr=True).print(text, soft_wrap=True)
    return typer.Exit(1)


@app.callback()
def _refuse_wrong_settings() -> None:
    """Bank data from Lean in a warehouse that people trust."""
    from pipelines.environment import settings
    from pipelines.lake.permissions import open_home

    if "--help" not in sys.argv:
        _homes.append(settings().home)
        open_home(settings().home, settings().house.file_group)


_MOST_SKEW_SECONDS = 60


def _not_listening(host: str, port: int, error: OSError) -> typer.Exit:
    return _fail(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another")


@app.command()
def demo(
    customers: Customers = 20,
    months: Months = 12,
    seed: Seed = 7,
    home: Annotated[Path, typer.Option(help="Folder of the demo's state.")] = DEFAULT_HOME / "demo",
    mtls: Annotated[bool, typer.Option(help="Ask for a client certificate.")] = False,
    certificate_fault: Annotated[
        CertificateFault | None, typer.Option(help="Get a certificate wrong (with --mtls).")
    ] = None,
) -> None:
    """Sync an offline Lean through Dagster and show what it brought."""
    from pipelines.cli.demo import demo as run_demo
    from pipelines.dagster_defs.in_process import SyncFailedError
    from pipelines.environment import state_folder

    _homes.append(state_folder(home, "--home"))
    try:
        run_demo(
            _homes[-1],
            customers=customers,
            months=months,
            seed=seed,
            mtls=mtls or certificate_fault is not None,
            certificate_fault=certificate_fault,
            console=plain_console(),
        )
    except SyncFailedError as error:
        raise _fail(str(error)) from None


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8600,
    host: Annotated[str, typer.Option(help="Loopback unless you know better.")] = "127.0.0.1",
    customers: Customers = 20,
    months: Months = 12,
    seed: Seed = 7,
    today: Annotated[
        str | None, typer.Option(help="Its date, YYYY-MM-DD; today when left.")
    ] = None,
    mtls: Annotated[bool, typer.Option(help="Ask for a client certificate.")] = False,
    webhook_url: Annotated[
        str | None, typer.Option(help="Send webhooks there, and let the clock run.")
    ] = None,
) -> None:
    """Serve the offline Lean until it is interrupted."""
    from lean_resources.sandbox import Sandbox
    from lean_resources.sandbox import run as run_sandbox

    try:
        day = dt.date.fromisoformat(today) if today else dt.datetime.now(dt.UTC).date()
    except ValueError:
        raise _fail("--today is not a date: write it as YYYY-MM-DD") from None
    world = Sandbox(customers=customers, months=months, seed=seed, today=day)

    def announce(server: "Server") -> None:
        say(
            f"Offline Lean at {server.url}\n"
            f"LEAN_API_URL={server.url}\n"
            f"LEAN_TOKEN_URL={server.token_url}\n"
            f"LEAN_CLIENT_ID={world.client_id}\n"
            f"LEAN_CLIENT_SECRET={world.client_secret}  (made up)",
        )
        if server.certificates is not None:
            say(
                f"LEAN_TRUST_ROOT={server.certificates.authority}\n"
                f"LEAN_CLIENT_CERT={server.certificates.client_cert}\n"
                f"LEAN_CLIENT_KEY={server.certificates.client_key}",
            )
        if webhook_url is not None:
            say(f"LEAN_WEBHOOK_SECRET={world.webhook_secret}  (made up)")

    try:
        with contextlib.ExitStack() as stack:
            if webhook_url is not None:
                stack.enter_context(world.deliver(webhook_url))
                stack.enter_context(world.passing_time())
            run_sandbox(world, host=host, port=port, mtls=mtls, announce=announce)
    except OSError as error:
        raise _not_listening(host, port, error) from None


@app.command()
def dev(
    customers: Customers = 20,
    months: Months = 12,
    seed: Seed = 7,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of Dagster's UI.")] = 3000,
) -> None:
    """Open Dagster's UI with the offline Lean behind it, webhooks included."""
    from pydantic import SecretStr

    from lean_resources.sandbox import Sandbox, serve
    from lean_resources.settings import WebhookSettings
    from pipelines.dagster_defs.in_process import instance_at
    from pipelines.dagster_defs.resources import InboxResource
    from pipelines.environment import child_of
    from pipelines.webhooks.receiver import PATH, receiving

    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise _not_listening("127.0.0.1", port, error) from None
    home = DEFAULT_HOME / "dev"
    world = Sandbox(
        customers=customers, months=months, seed=seed, today=dt.datetime.now(dt.UTC).date()
    )
    inbox = InboxResource(f"sqlite:///{home / 'inbox' / 'sandbox.db'}").inbox()
    assert inbox is not None  # noqa: S101 - it has a URL
    receiver = WebhookSettings(secret=SecretStr(world.webhook_secret), port=0)
    with (
        serve(world, port=0, mtls=False) as server,
        receiving(receiver, inbox) as webhook_port,
        world.deliver(f"http://127.0.0.1:{webhook_port}{PATH}"),
        world.passing_time(),
    ):
        instance_at(home / "dagster", say).dispose()
        environment = child_of(
            {
                "region": "sa",
                "environment": "sandbox",
                "api_url": server.url,
                "token_url": server.token_url,
                "client_id": world.client_id,
                "client_secret": world.client_secret,
                "requests_per_second": "500",
                "webhook_secret": world.webhook_secret,
            },
            home,
        )
        say(
            f"Offline Lean at {server.url}, Dagster at http://127.0.0.1:{port}\n"
            f"One more customer: curl -X POST {server.url}/_sandbox/connect",
        )
        command = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions"]
        command += ["-p", str(port)]
        # Not in the checkout: its .env would win over the offline Lean's settings.
        with child(command, cwd=home, env=environment) as process:
            raise typer.Exit(process.wait())


@app.command()
def sync(
    entity: Annotated[
        list[str] | None, typer.Option(help="Only this entity; may be given again.")
    ] = None,
) -> None:
    """Bring every stream up to date and publish the warehouse, in this process."""
    from pipelines.cli.console import lines_table, progress_bars
    from pipelines.dagster_defs.in_process import SyncFailedError, instance_at, sync_all
    from pipelines.definitions import inbox, lake, lean, policy
    from pipelines.environment import settings

    console = plain_console()
    _lake_of(None, is_written=True)
    try:
        with (
            progress_bars(console) as progress,
            instance_at(settings().home / "dagster", say) as instance,
        ):
            lines = sync_all(
                lean,
                lake,
                progress,
                instance=instance,
                policy=policy,
                inbox=inbox,
                entity_ids=entity or (),
            )
    except SyncFailedError as error:
        raise _fail(str(error)) from None
    console.print(lines_table(lines))
    for line in lines:
        for reason, count in line.unfit.items():
            say(f"warning    {count:,} records of {line.stream} do not fit: {reason}")
    if any(line.unfit for line in lines):
        say("           Their days are not known. The view quarantine tells whose they are.")


@app.command()
def webhooks() -> None:
    """Receive Lean's webhooks until it is interrupted; LEAN_WEBHOOK_* say how."""
    from lean_resources.errors import ConfigError
    from pipelines.environment import settings
    from pipelines.webhooks.inbox import Inbox
    from pipelines.webhooks.receiver import PATH, listener, run_server, server

    configured = settings().webhooks.complete()
    if not configured.secrets:
        raise ConfigError(
            "no webhook secret: set LEAN_WEBHOOK_SECRET from Lean's dashboard, Integration"
        )
    inbox = Inbox(settings().inbox_url, settings().environment)
    inbox.create()
    receiver = server(configured, inbox)
    scheme = "https" if configured.tls_cert else "http"
    where = f"{configured.host}:{configured.port}"
    try:
        listening = listener(configured)
    except OSError as error:
        raise _not_listening(configured.host, configured.port, error) from None
    say(
        f"Webhooks of {settings().environment} at {scheme}://{where}{PATH}",
    )
    with listening:
        run_server(receiver, [listening])
    if not receiver.started:
        raise _fail(f"the receiver at {where} did not start; the lines above say why")


@app.command()
def doctor() -> None:
    """Check settings, credentials, certificates and the way to Lean, without touching data."""
    from lean_resources.certificates import ignored_roots
    from lean_resources.client import LeanClient
    from lean_resources.proxies import proxy_of, shown
    from pipelines.env_file import problems_of
    from pipelines.environment import settings
    from pipelines.keys import checked_key

    if (file := Path(".env")).is_file() and (problems := problems_of(file)):
        raise _fail("; ".join(problems))
    try:
        checked_key(settings().hash_key, settings().environment)
        client = LeanClient(settings().lean.complete())
        for reason in ignored_roots(client.settings):
            say(f"warning    {reason}; it is left out")
        proxy = proxy_of(client.settings.api_url)
        way = f", through the proxy {shown(proxy)}" if proxy is not None else ""
        say(f"settings   in order, {client.settings.api_url}{way}")

        async def knock() -> tuple[int, dt.datetime]:
            async with client:
                read = await client.read("banks", {"account_type": "PERSONAL"})
                return read.answers[0].envelope.records, await client.server_time()

        banks, server_time = asyncio.run(knock())
    except LeanError as error:
        raise _fail(f"{error.code}: {error.message}\n      {error.remedy}") from None
    apart = (dt.datetime.now(dt.UTC) - server_time).total_seconds()
    say(f"Lean       answers, {banks} banks, its clock is {abs(apart):.0f} s from ours")
    if abs(apart) > _MOST_SKEW_SECONDS:
        way = "ahead of" if apart > 0 else "behind"
        say(
            f"warning    this machine's clock is {abs(apart):,.0f} s {way} Lean's: set it by NTP."
            " What is known is ordered by Lean's clock all the same"
        )
    lake = _lake_of(None, is_written=True)
    say(f"lake       can be written, {lake.folder}")
    if (dagster_home := settings().home / "dagster").exists():
        from pipelines.dagster_defs.in_process import instance_at

        with instance_at(dagster_home, say):
            say(f"runs       none of a dead process is left, {dagster_home}")


@app.command()
def status(home: Home = None) -> None:
    """What the ledger says of each stream."""
    from pipelines.cli.console import show
    from pipelines.lake.queries import QUERIES

    with _lake_of(home).connect(("quarantine",)) as connection:
        show(connection.execute(QUERIES["status"]), plain_console())
        if connection.execute(QUERIES["unfit"]).fetchone():
            say("Records in quarantine; their days are not known:")
            show(connection.execute(QUERIES["unfit"]), plain_console())


@app.command()
def compact(home: Home = None) -> None:
    """Merge files of months that were read again; every answer stays as it is."""
    from pipelines.lake.compaction import compact as merge

    lake = _lake_of(home, is_written=True)
    done = merge(lake)
    _publish_again(lake)
    say(
        f"{done.months} months, {done.pulls:,} pulls: {done.rows:,} rows and {done.superseded:,}"
        f" earlier versions; {done.files_before:,} files become {done.files_after:,}"
        f" with the next vacuum; {done.ledger_files:,} files of the ledger merged",
    )


@app.command()
def fsck(
    home: Home = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend what can be: from copies and from answers as received. What cannot counts no"
            " more, so that the next sync reads it.",
        ),
    ] = False,
) -> None:
    """Read every file of the lake and say which are damaged, lost or not its own."""
    from pipelines.operate.fsck import check
    from pipelines.operate.fsck import repair as mend

    lake = _lake_of(home)
    report = check(lake)
    for finding in report.findings:
        say(str(finding))
    if repair and report.findings:
        for line in mend(lake):
            say(line)
        report = check(lake)
    say(
        f"{report.verified:,} files hold what they held; {report.unverified:,} can be read, and"
        " nothing says what they held: an earlier format wrote them, or they are logs"
    )
    if report.findings:
        left = "are left" if repair else "were found: leanhouse fsck --repair mends what it can"
        raise _fail(f"{len(report.findings):,} damaged, missing or foreign files {left}")
    if repair:
        say("Run leanhouse sync: it reads what was lost, and builds the tables.")


@app.command()
def vacuum(
    home: Home = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")
    ] = False,
    yes_delete: Annotated[
        int | None,
        typer.Option(min=1, help="Delete so many files that nothing names: as the refusal says."),
    ] = None,
) -> None:
    """Delete what killed processes left, and what was merged or replaced a day ago or more."""
    from pipelines.operate.vacuum import plan_vacuum
    from pipelines.operate.vacuum import vacuum as delete

    lake = _lake_of(home)
    done = (
        plan_vacuum(lake, yes_delete=yes_delete) if dry_run else delete(lake, yes_delete=yes_delete)
    )
    for (place, reason), (files, size) in sorted(done.summary().items()):
        say(f"{place:<14} {files:>7,} files, {size:>15,} bytes  {reason}")
    say(f"{len(done.deletions):,} files {'would be ' if dry_run else ''}deleted")
    if done.refusal is not None:
        say(f"warning    vacuum would refuse: {done.refusal}")


@app.command()
def replay(
    stream: Annotated[
        list[str] | None, typer.Argument(help="Only these streams; all when left.")
    ] = None,
    home: Home = None,
) -> None:
    """Type the answers as received again, without asking Lean, and publish the warehouse."""
    from lean_resources.streams import STREAMS
    from pipelines.lake.ledger import new_id
    from pipelines.sync.policy import load
    from pipelines.sync.replay import replay as replay_stream

    unknown = sorted(set(stream or ()) - set(STREAMS))
    if unknown:
        raise _fail(f"there is no stream {', '.join(unknown)}: choose among {', '.join(STREAMS)}")
    lake, run_id = _lake_of(home, is_written=True), f"replay-{new_id()}"
    policy, _ = load(lake.folder.parent.parent / "policy.toml")
    for name in stream or STREAMS:
        try:
            done = replay_stream(STREAMS[name], lake, policy=policy, run_id=run_id)
        except LeanError as error:
            raise _fail(f"{name}: {error.message}. {error.remedy}") from None
        without = f", {done.without_answers:,} without answers" if done.without_answers else ""
        say(f"{name:<20} {done.pulls:,} pulls, {done.rows:,} rows{without}")
    _build(lake)


@app.command()
def build(
    home: Home = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Change nothing; show why this model fails, values of rows included.",
        ),
    ] = None,
) -> None:
    """Bring the models up to date with the lake as it stands, and publish the warehouse."""
    if explain is None:
        _build(_lake_of(home, is_written=True))
    else:
        _explain(_lake_of(home), explain)


def _explain(lake: "Lake", name: str) -> None:
    """Say on standard output, and nowhere else, what DuckDB says of a model."""
    from pipelines.environment import settings
    from pipelines.keys import checked_key
    from pipelines.models.explain import explain
    from pipelines.models.loader import load

    models = load()
    if name not in models:
        near = difflib.get_close_matches(name, [model.name for model in models], n=1)
        raise _fail(f"there is no model {name}{''.join(f'; did you mean {one}?' for one in near)}")
    found = explain(lake, models, name, hash_key=checked_key(settings().hash_key, lake.environment))
    model = found.built.model.name
    if not found.words:
        say(f"{name} can be built from the lake as it stands: {found.built.rows:,} rows")
        return
    rests = "" if model == name else f"{name} rests on {model}. "
    say(f"{rests}{model} cannot be built:\n{found.words}")
    raise typer.Exit(1)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="Where leanhouse.duckdb belongs.")],
    readers: Annotated[Readers, typer.Option("--for", help="Who reads it.")],
    home: Home = None,
) -> None:
    """Write a warehouse that needs no lake: marts and their meanings, nothing personal."""
    from pipelines.environment import settings
    from pipelines.models.loader import load
    from pipelines.publish.analysts import publish_copy

    lake, group = _lake_of(home), settings().house.file_group
    done = publish_copy(lake, load(), folder, group)
    say(f"{done.path}: {len(done.rows)} tables, {sum(done.rows.values()):,} rows, for {readers}")


def _publish_again(lake: "Lake") -> None:
    """Let a published warehouse read merged files."""
    from pipelines.environment import settings
    from pipelines.models.loader import load
    from pipelines.publish.warehouse import publish

    if lake.warehouse.exists():
        publish(lake, load(), pii=settings().house.pii)


def _build(lake: "Lake") -> None:
    from pipelines.environment import settings
    from pipelines.keys import checked_key
    from pipelines.models.build import build as build_models
    from pipelines.models.loader import load
    from pipelines.publish.warehouse import publish

    models = load()
    built = build_models(lake, models, hash_key=checked_key(settings().hash_key, lake.environment))
    for one in built:
        if one.written:
            say(f"{one.model.name:<30} {one.rows:,} rows, {one.seconds:.1f} s")
    publish(lake, models, pii=settings().house.pii)
    problems = list(dict.fromkeys(one.problem for one in built if one.problem is not None))
    broken = [
        f"{one.model.name}: {check.claim} ({found.offenders} rows)"
        for one in built
        for check, found in one.checks.items()
        if found.offenders and check.is_error
    ]
    if problems or broken:
        raise _fail("; ".join(problems + broken))


class _SqlCommand(TyperCommand):
    """A command whose argument may begin with a comment of SQL, which looks like an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put what cannot be an option behind all options."""
        if "--" in args:
            return super().parse_args(ctx, args)
        is_sql = [one.startswith("--") and not _OPTION.match(one) for one in args]
        options = [one for one, is_it in zip(args, is_sql, strict=True) if not is_it]
        sql = [one for one, is_it in zip(args, is_sql, strict=True) if is_it]
        return super().parse_args(ctx, [*options, "--", *sql] if sql else options)


@app.command(cls=_SqlCommand)
def query(
    sql: Annotated[
        str, typer.Argument(help="One SELECT over the warehouse, a file that holds it, or -.")
    ],
    home: Home = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write CSV instead of a table.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Write an array of objects; decimals are text.")
    ] = False,
    parquet: Annotated[Path | None, typer.Option(help="Write this file instead.")] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="For operators: any statement, any file.")
    ] = False,
) -> None:
    """Ask the warehouse, which is read-only: its tables and nothing else."""
    from pipelines.cli.query import Form, QueryError, ask, statement

    if csv + json + (parquet is not None) > 1:
        raise _fail("give one of --csv, --json and --parquet")
    form = Form.CSV if csv else Form.JSON if json else Form.TABLE
    try:
        asked = statement(sql)
        ask(_lake_of(home), asked, plain_console(), form, parquet, is_unsafe=unsafe)
    except (FileNotFoundError, QueryError) as error:
        raise _fail(str(error)) from None
    except LeanError as error:
        raise _fail(f"{error.message}. {error.remedy}") from None


@app.command()
def dictionary(
    settings: Annotated[
        bool, typer.Option("--settings", help="Print .env.example instead.")
    ] = False,
) -> None:
    """Print the data dictionary, as it stands in docs/dictionary.md."""
    from pipelines.models.dictionary import dictionary as written
    from pipelines.models.dictionary import env_example
    from pipelines.models.loader import load

    standard_output().write(env_example() if settings else written(load()))


def _lake_of(home: Path | None, *, is_written: bool = False) -> "Lake":
    """The lake of a home, which can be read and, where it is going to be written, written."""
    from pipelines.environment import settings, state_folder
    from pipelines.lake.lake import Lake
    from pipelines.lake.permissions import check_readable, open_home

    folder = settings().home if home is None else state_folder(home, "--home")
    _homes.append(folder)
    open_home(folder, settings().house.file_group)
    lake = Lake(folder / "lake", settings().environment)
    check_readable(lake.folder)
    if is_written:
        lake.check_writable()
    return lake


def _place() -> str | None:
    return str(_homes[-1]) if _homes else None


def _problem_of(error: Exception) -> LeanError | MachineError | None:
    """What of this machine or of the lake's files is behind an error of a library."""
    from pipelines.lake.digests import damage_error

    return machine_error(error, _place()) or damage_error(error)


def main() -> None:
    """Run the command line; an error that has a remedy is one sentence and the remedy."""
    end_on_signals()
    try:
        app()
    except BaseException as error:
        if (number := received()) is not None:
            name = signal.Signals(number).name
            plain_console(stderr=True).print(f"ended by {name}; what was committed is kept")
            sys.exit(128 + number)
        if not isinstance(error, Exception):
            raise
        problem = error if isinstance(error, LeanError) else _problem_of(error)
        if problem is None:
            raise
        _fail(f"{problem.message}\n      {problem.remedy}")
        sys.exit(1)


if __name__ == "__main__":
    main()
