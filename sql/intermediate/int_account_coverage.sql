-- Intervals in which all bookings of an account are known, as of the time when its bank was asked.
-- An interval without a movement had no movement; what happened outside the intervals is unknown.
--
-- grain:  one row per account and interval of a Riyadh month
-- key:    account_key, known_from_at
-- stored: by riyadh_month, reading -1 to 0
-- apart:  account by account_key
-- formerly: fct_account_coverage
-- counts: days that a committed pull covers, except days whose records did not fit and days before
--         all that the bank offers; the last day only up to the instant at which the bank was asked
-- zone:   instants are UTC, dates and riyadh_month are Riyadh's
-- columns:
--   riyadh_month     Riyadh month as YYYY-MM; three hours ahead of the UTC month of the lake.
--   known_from_at    Start of the interval, UTC.
--   known_to_at      End of the interval, UTC, exclusive.
--   from_date        First Riyadh day that the interval touches.
--   to_date          Last Riyadh day that the interval touches, inclusive.
--   whole_from_date  First Riyadh day that lies in the interval from midnight to midnight; later
--                    than whole_to_date where no day does.
--   whole_to_date    Last Riyadh day that lies in the interval from midnight to midnight.
-- sample: select account_key, sum(greatest(whole_to_date - whole_from_date + 1, 0)) as days
--         from int_account_coverage group by all order by all
with pieces as (

    select
        account_key,
        pull_id,
        offered_from,
        unnest(fitting_ranges(claimed_from, claimed_to, unfit_dates)) as piece
    from int_covering_pulls

),

claims as (

    select
        account_key,
        pull_id,
        offered_from,
        piece['first_date'] as claimed_from,
        piece['final_date'] as claimed_to
    from pieces

),

covering as (

    select
        claims.account_key,
        -- If no refresh reported a start, greatest leaves the range as it is.
        greatest(claims.claimed_from, claims.offered_from)::timestamp as known_from,
        least(
            (claims.claimed_to + 1)::timestamp,
            coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at) at time zone 'UTC'
        ) as known_to
    from claims
    inner join pulls on claims.pull_id = pulls.pull_id

),

ordered as (

    select
        *,
        max(known_to) over (
            partition by account_key
            order by known_from
            rows between unbounded preceding and 1 preceding
        ) as known_before
    from covering
    where known_to > known_from

),

numbered as (

    select
        *,
        count(*) filter (where known_before is null or known_before < known_from) over (
            partition by account_key
            order by known_from
        ) as interval_id
    from ordered

),

-- From here on naive timestamps are Riyadh's wall clock, three hours ahead of UTC all year.
intervals as (

    select
        account_key,
        min(known_from) + interval 3 hour as known_from,
        max(known_to) + interval 3 hour as known_to
    from numbered
    group by account_key, interval_id

),

months as (

    select
        *,
        unnest(
            generate_series(
                date_trunc('month', known_from), known_to - interval 1 microsecond, interval 1 month
            )
        )::timestamp as month_start
    from intervals

),

cut as (

    select
        account_key,
        month_start,
        greatest(known_from, month_start) as known_from,
        least(known_to, month_start + interval 1 month) as known_to
    from months

)

select
    account_key,
    strftime(month_start, '%Y-%m') as riyadh_month,
    (known_from - interval 3 hour) at time zone 'UTC' as known_from_at,
    (known_to - interval 3 hour) at time zone 'UTC' as known_to_at,
    known_from::date as from_date,
    (known_to - interval 1 microsecond)::date as to_date,
    (known_from + interval 1 day - interval 1 microsecond)::date as whole_from_date,
    known_to::date - 1 as whole_to_date
from cut
