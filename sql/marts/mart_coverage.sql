-- Which days of each account are known, and why the remaining days are unknown. A known day without
-- movements had no movement.
--
-- subject: trust
-- grain:  one row per real account and interval of UTC days with one status and reason
-- key:    account_key, utc_from
-- stored: table
-- apart:  account by account_key
-- counts: from the first day that is permitted or known to the day of the lake's clock; if several
--         of Lean's ids could show a day, it has the best of their statuses
-- zone:   days are UTC days, as in Lean's requests; see int_account_coverage for Riyadh days
-- columns:
--   account_key  The real account; see dim_accounts.
--   utc_from     First UTC day of the interval.
--   utc_to       Last UTC day of the interval, inclusive.
--   day_count    Days of the interval.
--   status       covered, a read covers the days; record_unfit, records of them did not fit;
--                not_yet_pulled, permitted, but not read; bank_refused, the last read failed or the
--                bank is paused; not_offered, before all that the bank offers, so a read of them
--                shows nothing; not_permitted.
--   reason       Code that says why the days are not known: OUTSIDE_CONSENT where they lie before
--                or after what the consent allows; BEFORE_AVAILABILITY where they are not offered;
--                RECORDS_UNFIT where records did not fit. Null where covered or not yet pulled.
--   is_last_good  Whether the days show only what fits, and the last good version of what no longer
--                fits.
--   bank_asked_at  When the bank was asked for these days, UTC: for all of them no longer ago. The
--                lake's view account_days has it by day. Null where no day is covered.
--   as_of        The lake's clock.
-- sample: select status, reason, sum(day_count) as days from mart_coverage
--         group by all order by all
with here as (

    select
        as_of,
        (as_of at time zone 'UTC')::date as today
    from clock

),

depths as (

    select
        bridge_accounts.account_key,
        account_depths.offered_from
    from account_depths
    inner join bridge_accounts on account_depths.account_id = bridge_accounts.account_id

),

fitting as (

    select
        bridge_accounts.account_key,
        unnest(
            fitting_ranges(claims.claimed_from, claims.claimed_to, claims.unfit_dates)
        ) as piece,
        claims.refreshed_at,
        account_depths.offered_from
    from claims
    inner join bridge_accounts on claims.parent_id = bridge_accounts.account_id
    left join account_depths on claims.parent_id = account_depths.account_id
    where claims.stream = 'transactions'

),

covering as (

    select
        account_key,
        piece['first_date'] as claimed_from,
        piece['final_date'] as claimed_to,
        refreshed_at,
        offered_from
    from fitting

),

-- Days that were read and are not known, because some of their records did not fit.
unfit as (

    select distinct
        bridge_accounts.account_key,
        unnest(claims.unfit_dates) as unfit_date
    from claims
    inner join bridge_accounts on claims.parent_id = bridge_accounts.account_id
    where claims.stream = 'transactions' and claims.is_unfit

),

windows as (

    select
        bridge_accounts.account_key,
        bridge_accounts.account_id,
        account_windows.skip_code,
        account_windows.from_date,
        account_windows.to_date,
        account_depths.offered_from
    from account_windows
    inner join bridge_accounts on account_windows.account_id = bridge_accounts.account_id
    left join account_depths on account_windows.account_id = account_depths.account_id

),

-- Months whose last read failed: nothing else changes from one month to the next.
attempts as (

    select
        parent_id as account_id,
        month,
        arg_max(
            outcome,
            (
                coalesce(known_at, asked_at),
                coalesce(generation, 0),
                pull_tie(generation, pull_id)
            )
        ) as outcome,
        arg_max(
            coalesce(code, ''),
            (
                coalesce(known_at, asked_at),
                coalesce(generation, 0),
                pull_tie(generation, pull_id)
            )
        ) as code
    from pulls
    where stream = 'transactions' and outcome <> 'SKIPPED'
    group by all

),

failed as (

    select
        windows.account_key,
        attempts.account_id,
        attempts.code,
        greatest((attempts.month || '-01')::date, windows.from_date) as first_day,
        least(last_day((attempts.month || '-01')::date), windows.to_date) as final_day
    from attempts
    inner join windows on attempts.account_id = windows.account_id
    where
        attempts.outcome = 'FAILED'
        and strftime(windows.from_date, '%Y-%m') <= attempts.month
        and strftime(windows.to_date, '%Y-%m') >= attempts.month

),

status_edges as (

    select
        account_key,
        unnest([claimed_from, claimed_to + 1]) as edge
    from covering

    union

    select
        account_key,
        unnest([unfit_date, unfit_date + 1]) as edge
    from unfit

    union

    select
        account_key,
        unnest([from_date, case when to_date < date '9999-12-31' then to_date + 1 end]) as edge
    from windows

    union

    select
        account_key,
        unnest([first_day, final_day + 1]) as edge
    from failed

    union

    select
        windows.account_key,
        here.today + 1 as edge
    from windows
    cross join here

),

bounds as (

    select
        account_key,
        min(edge) as first_edge,
        max(edge) as last_edge
    from status_edges
    group by account_key

),

edges as (

    select
        account_key,
        edge
    from status_edges

    union

    -- An offer outside of all other edges adds no days of its own.
    select
        depths.account_key,
        depths.offered_from as edge
    from depths
    inner join bounds on depths.account_key = bounds.account_key
    where depths.offered_from > bounds.first_edge and depths.offered_from < bounds.last_edge

),

pieces as (

    select
        edges.account_key,
        edges.edge as utc_from,
        lead(edges.edge) over (
            partition by edges.account_key
            order by edges.edge
        ) - 1 as utc_to
    from edges
    cross join here
    where edges.edge <= here.today + 1

),

-- Reads may cover the same days. No piece lies partly inside a read.
covered as (

    select
        pieces.account_key,
        pieces.utc_from,
        max(covering.refreshed_at) as bank_asked_at
    from pieces
    inner join covering
        on
            pieces.account_key = covering.account_key
            and pieces.utc_from between covering.claimed_from and covering.claimed_to
            and (covering.offered_from is null or pieces.utc_from >= covering.offered_from)
    group by pieces.account_key, pieces.utc_from

),

open_pieces as (

    select pieces.*
    from pieces
    left join covered
        on pieces.account_key = covered.account_key and pieces.utc_from = covered.utc_from
    where covered.account_key is null and pieces.utc_to is not null

),

candidates as (

    select
        open_pieces.account_key,
        open_pieces.utc_from,
        case
            when unfit.account_key is not null then 'record_unfit'
            when windows.skip_code = 'BANK_PAUSED' then 'bank_refused'
            when
                windows.account_id is null
                or windows.skip_code is not null
                or open_pieces.utc_from not between windows.from_date and windows.to_date
                then 'not_permitted'
            when failed.code = 'RECORDS_UNFIT' then 'record_unfit'
            when failed.account_id is not null then 'bank_refused'
            else 'not_yet_pulled'
        end as status,
        case
            when unfit.account_key is not null then 'RECORDS_UNFIT'
            when windows.skip_code is not null then windows.skip_code
            when
                windows.account_id is null
                or open_pieces.utc_from not between windows.from_date and windows.to_date
                then 'OUTSIDE_CONSENT'
            else failed.code
        end as reason
    from open_pieces
    left join unfit
        on
            open_pieces.account_key = unfit.account_key
            and open_pieces.utc_from = unfit.unfit_date
    left join windows on open_pieces.account_key = windows.account_key
    left join failed
        on
            windows.account_id = failed.account_id
            and open_pieces.utc_from between failed.first_day and failed.final_day
    where windows.offered_from is null or open_pieces.utc_from >= windows.offered_from

    union all

    select
        open_pieces.account_key,
        open_pieces.utc_from,
        'not_offered' as status,
        'BEFORE_AVAILABILITY' as reason
    from open_pieces
    inner join depths on open_pieces.account_key = depths.account_key
    where open_pieces.utc_from < depths.offered_from

),

best as (

    select
        account_key,
        utc_from,
        status,
        reason
    from candidates
    qualify
        row_number() over (
            partition by account_key, utc_from
            order by
                list_position(
                    [
                        'record_unfit',
                        'not_yet_pulled',
                        'bank_refused',
                        'not_offered',
                        'not_permitted'
                    ],
                    status
                ) asc,
                reason asc nulls last
        ) = 1

),

judged as (

    select
        pieces.account_key,
        pieces.utc_from,
        pieces.utc_to,
        coalesce(best.status, 'covered') as status,
        best.reason,
        covered.bank_asked_at
    from pieces
    left join best
        on pieces.account_key = best.account_key and pieces.utc_from = best.utc_from
    left join covered
        on pieces.account_key = covered.account_key and pieces.utc_from = covered.utc_from
    where pieces.utc_to is not null

),

compared as (

    select
        *,
        coalesce(
            lag(status) over account_days = status
            and lag(reason) over account_days is not distinct from reason,
            false
        ) as is_same
    from judged
    window account_days as (partition by account_key order by utc_from)

),

numbered as (

    select
        *,
        count(*) filter (where not is_same) over (
            partition by account_key
            order by utc_from
        ) as interval_id
    from compared

)

select
    numbered.account_key,
    min(numbered.utc_from) as utc_from,
    max(numbered.utc_to) as utc_to,
    max(numbered.utc_to) - min(numbered.utc_from) + 1 as day_count,
    numbered.status,
    numbered.reason,
    coalesce(numbered.reason = 'RECORDS_UNFIT', false) as is_last_good,
    min(numbered.bank_asked_at) as bank_asked_at,
    here.as_of
from numbered
cross join here
group by numbered.account_key, numbered.interval_id, numbered.status, numbered.reason, here.as_of
