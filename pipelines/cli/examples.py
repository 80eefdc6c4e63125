"""Examples of each command, which its --help shows."""

EXAMPLES = {
    "demo": ("leanhouse demo", "leanhouse demo --customers 5 --mtls"),
    "sandbox": ("leanhouse sandbox --port 8600 --today 2026-03-15",),
    "dev": ("leanhouse dev --port 3001",),
    "sync": ("leanhouse sync", "leanhouse sync --dry-run"),
    "webhooks": ("LEAN_WEBHOOK_PORT=8443 leanhouse webhooks",),
    "doctor": ("leanhouse doctor",),
    "build": (
        "leanhouse build",
        "leanhouse build --explain dim_banks",
        "leanhouse build --rollback",
    ),
    "publish": ("leanhouse publish --for analysts /srv/analysts",),
    "export": (
        "leanhouse export bank.duckdb",
        "leanhouse export out --format csv --table dim_banks",
    ),
    "warehouse": ("leanhouse warehouse pull", "leanhouse warehouse pull /srv/bank"),
    "query": ('leanhouse query "from dim_banks"', "leanhouse query report.sql --csv"),
    "dictionary": ("leanhouse dictionary", "leanhouse dictionary --settings"),
    "status": ("leanhouse status", "leanhouse status --json"),
    "alert": ("leanhouse alert --test",),
    "report": ("leanhouse report", "leanhouse report --lang ar --output report.html"),
    "compact": ("leanhouse compact",),
    "fsck": ("leanhouse fsck", "leanhouse fsck --repair"),
    "vacuum": ("leanhouse vacuum --dry-run", "leanhouse vacuum"),
    "support-bundle": ("leanhouse support-bundle fault.zip",),
    "replay": ("leanhouse replay", "leanhouse replay transactions balances"),
}
