-- What the ledger says of each stream, for leanhouse status.
--
-- grain: one row per stream
with unfit as (

    select
        stream,
        sum(record_count)::bigint as records
    from quarantine
    where is_record_lost
    group by stream

)

select
    pulls.stream,
    count(*) filter (where pulls.outcome = 'COMMITTED') as committed,
    count(*) filter (where pulls.outcome = 'UNCHANGED') as unchanged,
    count(*) filter (where pulls.outcome = 'SKIPPED') as skipped,
    count(*) filter (where pulls.outcome = 'FAILED') as failed,
    sum(pulls.rows) as rows,
    any_value(unfit.records) as unfit,
    strftime(max(pulls.finished_at), '%Y-%m-%d %H:%M') as last_pull
from pulls
left join unfit on pulls.stream = unfit.stream
group by pulls.stream
order by pulls.stream
