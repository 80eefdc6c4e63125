-- How late each bank shows movements, and what share came later than its nightly days. Reads the
-- view lateness, which shows mart_bank_lateness.
--
-- parameters: $banks and $days, two lists: the banks that have nightly days of their own; $usual
-- grain: one row per bank
with nightly as (

    select
        unnest($banks::varchar[]) as bank_identifier,
        unnest($days::integer[]) as days

),

counted as (

    select
        lateness.bank_identifier,
        lateness.days_late,
        coalesce(nightly.days, $usual) as nightly_days,
        sum(lateness.movement_count) as movement_count
    from lateness
    left join nightly on lateness.bank_identifier = nightly.bank_identifier
    group by all

),

running as (

    select
        *,
        sum(movement_count) over (
            partition by bank_identifier
            order by days_late
        ) / sum(movement_count) over (partition by bank_identifier) as share
    from counted

)

select
    bank_identifier,
    sum(movement_count)::bigint as movements,
    min(days_late) filter (where share >= 0.5) as days_p50,
    min(days_late) filter (where share >= 0.95) as days_p95,
    min(days_late) filter (where share >= 0.99) as days_p99,
    max(days_late) as days_most,
    coalesce(
        sum(movement_count) filter (where days_late > nightly_days) / sum(movement_count), 0
    )::double as later_share
from running
group by bank_identifier
order by bank_identifier
