-- What the ledger says of each bank and stream, for the state of health. Reads the whole ledger.
--
-- last_good_at and last_pull_at are of this machine's clock; refreshed_at is the newest bank data
-- copy that was read, by Lean's clock.
--
-- grain: one row per bank and stream; the bank is null for what is not read from a bank
select
    bank_identifier,
    stream,
    count(*) filter (where outcome = 'COMMITTED') as committed,
    count(*) filter (where outcome = 'UNCHANGED') as unchanged,
    count(*) filter (where outcome = 'SKIPPED') as skipped,
    count(*) filter (where outcome = 'FAILED') as failed,
    sum(rows)::bigint as rows,
    (sum(requests) filter (where asked_at >= $midnight))::bigint as requests_today,
    count(distinct parent_id) filter (where outcome <> 'SKIPPED') as targets,
    max(finished_at) filter (where outcome in ('COMMITTED', 'UNCHANGED')) as last_good_at,
    max(finished_at) as last_pull_at,
    max(refreshed_at) filter (where outcome in ('COMMITTED', 'UNCHANGED')) as refreshed_at,
    max(finished_at) filter (where code = 'CIRCUIT_OPEN') as left_alone_at,
    max(finished_at) filter (
        where outcome = 'FAILED' and code is distinct from 'CIRCUIT_OPEN'
    ) as last_failure_at
from all_pulls
group by bank_identifier, stream
order by bank_identifier, stream
