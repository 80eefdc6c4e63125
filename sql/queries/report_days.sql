-- What came and what it cost in each of the 14 days up to an instant, for the daily report.
--
-- A day is 24 hours, and label is the Riyadh day on which it ends. Refreshes are placed by Lean's
-- clock, all else by this machine's.
--
-- grain: one row per day, the oldest first
with days as (

    select unnest(range(14)) as days_back

),

pulled as (

    select
        (epoch_us($until::timestamptz) - epoch_us(asked_at)) // 86400000000 as days_back,
        sum(rows)::bigint as rows,
        sum(requests)::bigint as requests
    from all_pulls
    where
        asked_at > $until::timestamptz - interval 14 days
        and asked_at <= $until::timestamptz
    group by all

),

spent as (

    select
        (epoch_us($until::timestamptz) - epoch_us(spent_at)) // 86400000000 as days_back,
        count(*) as refreshes
    from refresh_spends
    where
        spent_at > $until::timestamptz - interval 14 days
        and spent_at <= $until::timestamptz
    group by all

)

select
    strftime(
        $until::timestamptz - to_days(days.days_back::integer)
        + interval 3 hours - interval 1 microsecond,
        '%m-%d'
    ) as label,
    coalesce(pulled.rows, 0) as rows,
    coalesce(pulled.requests, 0) as requests,
    coalesce(spent.refreshes, 0) as refreshes
from days
left join pulled on days.days_back = pulled.days_back
left join spent on days.days_back = spent.days_back
order by days.days_back desc
