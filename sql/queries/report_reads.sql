-- What was read of each bank and stream in the day up to an instant, and in the day before, for the
-- daily report. A day is 24 hours.
--
-- grain: one row per bank and stream that was read in one of both days; the bank is empty for what
--        is not read from a bank
with asked as (

    select
        *,
        asked_at > $until::timestamptz - interval 1 day as is_now
    from all_pulls
    where
        asked_at > $until::timestamptz - interval 2 days
        and asked_at <= $until::timestamptz

)

select
    coalesce(bank_identifier, '') as bank_identifier,
    stream,
    count(*) filter (where is_now) as pulls,
    count(*) filter (where is_now and outcome = 'COMMITTED') as committed,
    count(*) filter (where is_now and outcome = 'UNCHANGED') as unchanged,
    count(*) filter (where is_now and outcome = 'SKIPPED') as skipped,
    count(*) filter (where is_now and outcome = 'FAILED') as failed,
    count(*) filter (where not is_now and outcome = 'FAILED') as failed_before,
    coalesce(sum(rows) filter (where is_now), 0)::bigint as rows,
    coalesce(sum(rows) filter (where not is_now), 0)::bigint as rows_before,
    coalesce(sum(quarantined) filter (where is_now), 0)::bigint as quarantined,
    coalesce(sum(quarantined) filter (where not is_now), 0)::bigint as quarantined_before,
    coalesce(sum(requests) filter (where is_now), 0)::bigint as requests,
    coalesce(sum(requests) filter (where not is_now), 0)::bigint as requests_before
from asked
group by all
order by all
