-- Which committed pull covers which days.
--
-- A snapshot stream has no days: the newest pull of a read target covers it. A month of an account
-- is covered by its newest pull. Days that only earlier pulls cover stay with the newest of those
-- pulls.
--
-- Pulls are ordered by when the bank was asked, then by when Lean was asked, both by Lean's clock.
-- Then their generation decides: a pull with a higher generation was written in knowledge of the
-- other pull. This machine's clock decides nothing.
--
-- stored: table
-- grain:  one row per pull and range of days
-- zone:   days are UTC days, both ends inclusive; null for a snapshot
-- counts: unfit_dates are days whose records did not fit, in this pull or in a newer read that
--         replaced nothing. These days show their last good rows and are not known. Records that
--         format 1 of the lake quarantined have no day, so all days of their read are unfit
-- columns:
--   stream        The stream.
--   parent_id     Read target of the pull: an account, an entity or a fixed name.
--   month         UTC month as YYYY-MM, for a stream with months.
--   pull_id       The pull.
--   claimed_from  First UTC day; null for a snapshot.
--   claimed_to    Last UTC day, inclusive; null for a snapshot.
--   refreshed_at  When the bank was last asked before that pull, UTC, by Lean.
--   moving_from   UTC day from which on the pull's rows may still move to another day; null where
--                 that is not known.
--   unfit_dates   UTC days whose records did not fit, so that they are not known; sorted. Null
--                 where every record fits, and for a snapshot.
--   is_unfit      Whether records did not fit, so that only a part is known.
with read as (

    select
        *,
        coalesce(refreshed_at, known_at, asked_at) as bank_asked_at,
        coalesce(known_at, asked_at) as lean_asked_at,
        coalesce(generation, 0) as made,
        -- The random part of an id. Format 1 wrote no generation: there the whole id decides.
        case when generation is null then pull_id else substr(pull_id, 15) end as tie
    from pulls

),

-- Reads that were refused because too much of them did not fit: they replace nothing, and what
-- they cover is not known.
refused as (

    select
        stream,
        parent_id,
        month,
        bank_asked_at,
        lean_asked_at,
        unfit_dates
    from read
    where code = 'RECORDS_UNFIT'
    qualify
        row_number() over (
            partition by stream, parent_id, month
            order by bank_asked_at desc, lean_asked_at desc, made desc, tie desc
        ) = 1

),

unplaced as (

    select distinct
        stream,
        series_id
    from pulls
    where quarantined > 0 and unfit_dates is null and outcome = 'COMMITTED'

),

ranked as (

    select
        stream,
        parent_id,
        month,
        pull_id,
        series_id,
        claimed_from,
        claimed_to,
        refreshed_at,
        bank_asked_at,
        lean_asked_at,
        quarantined,
        unfit_dates,
        moving_from,
        row_number() over (
            partition by stream, parent_id, month
            order by bank_asked_at desc, lean_asked_at desc, made desc, tie desc
        ) as age,
        min(claimed_from) over (partition by stream, parent_id, month) as first_from,
        max(claimed_to) over (partition by stream, parent_id, month) as last_to
    from read
    where outcome = 'COMMITTED'

),

newest as (

    select
        *,
        coalesce(first_from < claimed_from or last_to > claimed_to, false) as is_torn
    from ranked
    where age = 1

),

-- Months in which an earlier pull covers days that the newest pull does not.
torn as (

    select
        stream,
        parent_id,
        month
    from newest
    where is_torn

),

pieces as (

    select ranked.*
    from ranked
    inner join torn
        on
            ranked.stream = torn.stream
            and ranked.parent_id = torn.parent_id
            and ranked.month = torn.month

),

-- Between two of these days the same pulls cover all days.
starts as (

    select
        stream,
        parent_id,
        month,
        claimed_from as starts_on
    from pieces

    union

    select
        stream,
        parent_id,
        month,
        claimed_to + 1 as starts_on
    from pieces

),

spans as (

    select
        *,
        lead(starts_on) over of_month - 1 as ends_on,
        row_number() over of_month as span_number
    from starts
    window of_month as (partition by stream, parent_id, month order by starts_on)

),

owned as (

    select
        pieces.* exclude (claimed_from, claimed_to),  -- noqa: RF02
        spans.starts_on,
        spans.ends_on,
        spans.span_number
    from spans
    inner join pieces
        on
            spans.stream = pieces.stream
            and spans.parent_id = pieces.parent_id
            and spans.month = pieces.month
            and spans.starts_on between pieces.claimed_from and pieces.claimed_to
    qualify
        row_number() over (
            partition by pieces.stream, pieces.parent_id, pieces.month, spans.starts_on
            order by pieces.age
        ) = 1

),

ranges as (

    select
        *,
        span_number - row_number() over (
            partition by stream, parent_id, month, pull_id
            order by span_number
        ) as range_number
    from owned

),

counting as (

    select
        stream,
        parent_id,
        month,
        pull_id,
        series_id,
        claimed_from,
        claimed_to,
        refreshed_at,
        bank_asked_at,
        lean_asked_at,
        quarantined,
        unfit_dates,
        moving_from
    from newest
    where not is_torn

    union all

    select
        stream,
        parent_id,
        month,
        pull_id,
        any_value(series_id) as series_id,
        min(starts_on) as claimed_from,
        max(ends_on) as claimed_to,
        any_value(refreshed_at) as refreshed_at,
        any_value(bank_asked_at) as bank_asked_at,
        any_value(lean_asked_at) as lean_asked_at,
        any_value(quarantined) as quarantined,
        any_value(unfit_dates) as unfit_dates,
        any_value(moving_from) as moving_from
    from ranges
    group by stream, parent_id, month, pull_id, range_number

),

judged as (

    select
        counting.*,
        refused.bank_asked_at is not null as is_refused,
        case
            when unplaced.series_id is not null
                then generate_series(
                    counting.claimed_from, counting.claimed_to, interval 1 day
                )::date[]
            when counting.unfit_dates is not null or refused.unfit_dates is not null
                then list_sort(list_distinct(list_filter(
                    list_concat(
                        coalesce(counting.unfit_dates, []), coalesce(refused.unfit_dates, [])
                    ),
                    lambda one:  -- noqa: RF02
                    one between counting.claimed_from and counting.claimed_to  -- noqa: RF02
                )))
        end as all_unfit_dates
    from counting
    left join unplaced
        on counting.stream = unplaced.stream and counting.series_id = unplaced.series_id
    left join refused
        on
            counting.stream = refused.stream
            and counting.parent_id = refused.parent_id
            and counting.month is not distinct from refused.month
            and (refused.bank_asked_at, refused.lean_asked_at)
            > (counting.bank_asked_at, counting.lean_asked_at)

)

select
    stream,
    parent_id,
    month,
    pull_id,
    claimed_from,
    claimed_to,
    refreshed_at,
    moving_from,
    case when month is not null and len(all_unfit_dates) > 0 then all_unfit_dates end
        as unfit_dates,
    case
        when month is null then is_refused or quarantined > 0
        else coalesce(len(all_unfit_dates) > 0, false)
    end as is_unfit
from judged
