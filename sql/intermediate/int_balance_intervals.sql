-- The booked balance of each account over time, compared with its movements. A day with movements
-- is an interval of its own; quiet days in a row are one interval. mart_balance_reconciliation and
-- fct_balances_daily have a row per day.
--
-- grain:  one row per account, currency and interval of Riyadh days within a month
-- key:    account_key, currency, from_date
-- stored: by riyadh_month
-- apart:  account by account_key
-- formerly: fct_balance_stretches
-- counts: booked movements and booked balances
-- zone:   days and months are Riyadh's
-- columns:
--   account_key         The real account; see bridge_accounts.
--   currency            Currency of the amounts, ISO 4217.
--   riyadh_month        Riyadh month as YYYY-MM.
--   from_date           First day of the interval.
--   to_date             Last day of the interval, inclusive.
--   opening_balance     Booked balance at the start of the first day, in units of currency; null
--                       where unknown.
--   booked_amount       Sum of what was booked, in units of currency; zero on quiet days.
--   booked_count        Booked movements.
--   expected_balance    Balance at the end of the last day by the movements: the last known balance
--                       before the interval plus all that was booked since, in units of currency.
--                       Null where no earlier balance is known.
--   observed_balance    Balance at the end of the last day as the bank gives it, in units of
--                       currency: after the day's last movement, or as stated when the bank was
--                       asked. Null where the bank gives no balance.
--   closing_balance     Booked balance at the end of the last day, in units of currency: observed,
--                       carried or derived; null where unknown.
--   closing_method      How closing_balance was found. observed: the bank gave it. carried: nothing
--                       was booked, so the balance of the day before still holds. derived: it
--                       follows from the last known balance before, or else from the next known
--                       balance after, and from what was booked in between. unknown: the days are
--                       not covered, or no balance is known.
--   min_balance         Lowest booked balance of a day of the interval, in units of currency; null
--                       where unknown.
--   max_balance         Highest booked balance of a day of the interval, in units of currency; null
--                       where unknown.
--   gap_amount          observed_balance less expected_balance where they differ and nothing
--                       between them is unknown, in units of currency. It is what is missing from
--                       the movements, with its sign.
--   gap_from_date       First day on which what is missing can lie; the last such day is from_date.
--   verdict             proved, gap or unprovable.
--   proof               What proves it; null unless proved. movements: each movement of the day
--                       carries the balance after it. stated_balance: the bank stated the balance
--                       that day, and it follows from the last known balance. between_balances: the
--                       known balances before and after it agree.
--   reason              Why it is unprovable: no_balances (no balance of the account is known),
--                       first_balance (there is no earlier balance to compare it with),
--                       before_first_balance, after_last_balance, gap_later (the next balance does
--                       not fit; see its interval), not_covered (a quiet day that is not known from
--                       midnight to midnight), unknown_before (days or signs since the last balance
--                       are unknown), or the day's quality in int_balance_days.
--   last_observed_date  Day of the newest known balance up to the end of the interval.
--   is_newest           Whether it holds the account's last known day.
--   stated_pull_id      The pull whose stated balance is observed_balance.
-- sample: select verdict, reason, sum(to_date - from_date + 1) as days from int_balance_intervals
--         group by all order by all
with anchors as (

    select
        *,
        -- Later steps sort by account and month, and numbers sort faster than texts.
        row_number() over (order by account_key, currency, riyadh_month) as anchor_no,
        (
            strptime(riyadh_month || '-01', '%Y-%m-%d') - interval 3 hour
        ) at time zone 'UTC' as month_start
    from int_balance_anchors

),

-- Each month starts with the day before it; its first quiet days follow that day.
days as (

    select
        anchors.anchor_no,
        known.booking_date,
        known.booked_amount,
        known.booked_count,
        known.unknown_sign_count,
        known.quality,
        known.openings,
        known.closings,
        known.is_circular,
        known.min_balance,
        known.max_balance,
        known.known_from_at,
        known.stated_pull_id as day_pull_id
    from int_balance_days as known
    inner join anchors
        on
            known.account_key = anchors.account_key
            and known.currency = anchors.currency
            and known.riyadh_month = anchors.riyadh_month

    union all

    select
        anchor_no,
        from_date - 1 as booking_date,
        0 as booked_amount,
        0 as booked_count,
        0 as unknown_sign_count,
        'start' as quality,
        null as openings,
        null as closings,
        false as is_circular,
        null as min_balance,
        null as max_balance,
        null as known_from_at,
        null as day_pull_id
    from anchors

),

running as (

    select
        *,
        sum(booked_amount) over so_far as running_amount,
        sum(unknown_sign_count) over so_far as running_unknown
    from days
    window so_far as (
        partition by anchor_no
        order by booking_date
        rows unbounded preceding
    )

),

-- A normalized balance is a balance less all that was booked in the month before it. It stays the
-- same as long as no movement is missing.
normalized as (

    select
        * exclude (openings, closings),
        moved_by(openings, booked_amount - running_amount) as normalized_openings,
        moved_by(closings, -running_amount) as normalized_closings
    from running

),

totals as (

    select
        anchor_no,
        sum(booked_amount) as month_amount
    from days
    group by anchor_no

),

around as (

    select
        anchors.*,
        moved_by(anchors.balances_after, -totals.month_amount) as normalized_later,
        case
            when anchors.stated_balance is not null
                then (anchors.stated_balance - totals.month_amount)::decimal(38, 9)
        end as normalized_stated
    from anchors
    inner join totals on anchors.anchor_no = totals.anchor_no

),

-- Months where a day, or the months around, leave several possible starts or ends. Other months
-- need no neighbours.
ambiguous as (

    select anchor_no
    from normalized
    where len(normalized_openings) > 1 or len(normalized_closings) > 1
    union distinct
    select anchor_no
    from around
    where len(balances_before) > 1 or len(normalized_later) > 1

),

neighbours as (

    select
        normalized.*,
        null::decimal(38, 9)[] as normalized_previous,
        null::decimal(38, 9)[] as normalized_next
    from normalized
    anti join ambiguous on normalized.anchor_no = ambiguous.anchor_no

    union all

    select
        normalized.*,
        coalesce(
            lag(normalized.normalized_closings ignore nulls) over by_day, around.balances_before
        ) as normalized_previous,
        coalesce(
            lead(normalized.normalized_openings ignore nulls) over by_day, around.normalized_later
        ) as normalized_next
    from normalized
    inner join around on normalized.anchor_no = around.anchor_no
    inner join ambiguous on normalized.anchor_no = ambiguous.anchor_no
    window by_day as (
        partition by normalized.anchor_no
        order by normalized.booking_date
    )

),

-- If a day leaves several possible starts or ends, the balance that fits its neighbour is taken.
started as (

    select
        *,
        case
            when len(normalized_openings) = 1 then normalized_openings[1]
            else coalesce(
                first_within(normalized_openings, normalized_previous),
                case when is_circular then first_within(normalized_openings, normalized_next) end,
                normalized_openings[1]
            )
        end as normalized_opening
    from neighbours

),

ended as (

    select
        * exclude (normalized_openings, normalized_closings, normalized_previous, normalized_next),
        case
            when is_circular then normalized_opening
            when len(normalized_closings) = 1 then normalized_closings[1]
            else
                coalesce(
                    first_within(normalized_closings, normalized_next), normalized_closings[1]
                )
        end as normalized_closing,
        case
            when normalized_previous is not null then coalesce(normalized_openings, normalized_next)
        end as normalized_here
    from started

),

seen as (

    select
        *,
        lag(
            case
                when normalized_closing is not null
                    then
                        {
                            'normalized': normalized_closing,
                            'date': booking_date,
                            'unknown': running_unknown,
                            'known_from_at': known_from_at
                        }
            end ignore nulls
        ) over by_day as previous_end,
        lead(normalized_opening ignore nulls) over by_day as next_normalized_opening,
        lead(booking_date) over by_day as next_date
    from ended
    window by_day as (
        partition by anchor_no
        order by booking_date
    )

),

with_neighbours as (

    select
        seen.*,
        around.account_key,
        around.currency,
        around.riyadh_month,
        around.normalized_later,
        around.normalized_stated,
        around.doubts_before,
        around.stated_doubts,
        around.tells_balances,
        around.is_last_month,
        around.stated_pull_id,
        around.to_date as span_to,
        around.month_start,
        coalesce(
            seen.previous_end['normalized'],
            first_within(around.balances_before, seen.normalized_here),
            around.balances_before[1]
        ) as normalized_before,
        coalesce(seen.previous_end['date'], around.told_before_date) as last_balance_date
    from seen
    inner join around on seen.anchor_no = around.anchor_no

),

judged as (

    select
        *,
        coalesce(normalized_closing, normalized_before) as normalized_so_far,
        coalesce(
            next_normalized_opening,
            case
                when
                    list_contains(
                        normalized_later, coalesce(normalized_closing, normalized_before)
                    )
                    then coalesce(normalized_closing, normalized_before)
            end,
            normalized_later[1]
        ) as normalized_after,
        normalized_stated is not null and booking_date = span_to as is_stated,
        case
            when normalized_closing is null then stated_doubts
            when previous_end is null
                then
                    doubts_before
                    + running_unknown - unknown_sign_count
                    + if(known_from_at is not distinct from month_start, 0, 1)
            else
                running_unknown - unknown_sign_count - previous_end['unknown']
                + if(known_from_at is not distinct from previous_end['known_from_at'], 0, 1)
        end as doubts
    from with_neighbours

),

covered as (

    select
        anchors.account_key,
        anchors.currency,
        anchors.from_date as span_from,
        anchors.to_date as span_to,
        greatest(coverage.whole_from_date, anchors.from_date) as from_date,
        least(
            if(
                anchors.is_last_month and coverage.to_date = anchors.to_date,
                coverage.to_date,
                coverage.whole_to_date
            ),
            anchors.to_date
        ) as to_date
    from anchors
    left join int_account_coverage as coverage
        on
            anchors.account_key = coverage.account_key
            and anchors.riyadh_month = coverage.riyadh_month

),

tiles as (

    select
        account_key,
        currency,
        from_date,
        to_date,
        true as is_covered
    from covered
    where from_date <= to_date

    union all

    select
        account_key,
        currency,
        coalesce(
            lag(to_date) over (partition by account_key, currency order by from_date) + 1,
            span_from
        ) as from_date,
        from_date - 1 as to_date,
        false as is_covered
    from covered
    where from_date <= to_date

    union all

    select
        account_key,
        currency,
        coalesce(max(to_date) filter (where from_date <= to_date) + 1, min(span_from)) as from_date,
        min(span_to) as to_date,
        false as is_covered
    from covered
    group by account_key, currency

),

gaps_between as (

    select
        *,
        unnest(
            case
                when normalized_stated is not null and next_date is null
                    then
                        [
                            { 'first': booking_date + 1, 'last': span_to - 1, 'ends': false },
                            { 'first': span_to, 'last': span_to, 'ends': true }
                        ]
                else
                    [
                        {
                            'first': booking_date + 1,
                            'last': coalesce(next_date - 1, span_to),
                            'ends': false
                        }
                    ]
            end
        ) as piece
    from judged
    where coalesce(next_date - 1, span_to) > booking_date

),

quiet as (

    select
        pieces.account_key,
        pieces.currency,
        pieces.riyadh_month,
        greatest(pieces.piece.first, tiles.from_date) as from_date,
        least(pieces.piece.last, tiles.to_date) as to_date,
        0 as booked_amount,
        0 as booked_count,
        pieces.normalized_so_far as normalized_before,
        null as normalized_opening,
        case when pieces.piece.ends then pieces.normalized_stated end as normalized_observed,
        pieces.normalized_after,
        pieces.running_amount,
        null as lowest,
        null as highest,
        'quiet' as quality,
        tiles.is_covered,
        pieces.stated_doubts as doubts,
        pieces.tells_balances,
        pieces.is_last_month and tiles.to_date = pieces.span_to
        and pieces.piece.last >= pieces.span_to as is_newest,
        coalesce(
            case when pieces.normalized_closing is not null then pieces.booking_date end,
            pieces.last_balance_date
        ) as last_balance_date,
        case when pieces.piece.ends then pieces.stated_pull_id end as stated_pull_id
    from gaps_between as pieces
    inner join tiles
        on
            pieces.account_key = tiles.account_key
            and pieces.currency = tiles.currency
            and pieces.piece.first <= tiles.to_date
            and pieces.piece.last >= tiles.from_date
            and pieces.piece.first <= pieces.piece.last
            and tiles.from_date <= tiles.to_date

),

active as (

    select
        account_key,
        currency,
        riyadh_month,
        booking_date as from_date,
        booking_date as to_date,
        booked_amount,
        booked_count,
        normalized_before,
        normalized_opening,
        case
            when is_stated then normalized_stated else normalized_closing
        end as normalized_observed,
        normalized_after,
        running_amount,
        min_balance as lowest,
        max_balance as highest,
        quality,
        true as is_covered,
        doubts,
        tells_balances,
        is_last_month and booking_date = span_to as is_newest,
        last_balance_date,
        case when is_stated then stated_pull_id else day_pull_id end as stated_pull_id
    from judged
    where quality <> 'start'

),

intervals as (

    select *
    from active
    union all
    select *
    from quiet

),

verdicts as (

    select
        *,
        case
            when normalized_observed is not null and normalized_before is not null
                then normalized_observed - normalized_before
            -- The first balance of all can be compared with its own day only.
            when normalized_observed is not null and normalized_opening is not null
                then normalized_observed - normalized_opening
        end as difference,
        case
            when not is_covered then 'not_covered'
            when normalized_observed is not null
                then
                    case
                        when normalized_before is null
                            then if(tells_balances, 'first_balance', 'no_balances')
                        when normalized_observed <> normalized_before and coalesce(doubts, 0) > 0
                            then 'unknown_before'
                    end
            when normalized_before = normalized_after then null
            when not tells_balances then 'no_balances'
            when normalized_before is null then 'before_first_balance'
            when normalized_after is null then 'after_last_balance'
            when quality <> 'quiet' then quality
            else 'gap_later'
        end as doubt
    from intervals

)

select
    -- ids
    account_key,

    -- money
    currency,
    case
        when not is_covered then null
        else
            coalesce(normalized_opening, normalized_before, normalized_after)
            + running_amount
            - booked_amount
    end::decimal(38, 9) as opening_balance,
    booked_amount::decimal(38, 9) as booked_amount,
    (normalized_before + running_amount)::decimal(38, 9) as expected_balance,
    (normalized_observed + running_amount)::decimal(38, 9) as observed_balance,
    case
        when is_covered or normalized_observed is not null
            then coalesce(normalized_observed, normalized_before, normalized_after) + running_amount
    end::decimal(38, 9) as closing_balance,
    case
        when quality = 'chained'
            then least(lowest, normalized_opening + running_amount - booked_amount)
        when is_covered and quality in ('quiet', 'stated') and booked_count = 0
            then coalesce(normalized_observed, normalized_before, normalized_after) + running_amount
    end::decimal(38, 9) as min_balance,
    case
        when quality = 'chained'
            then greatest(highest, normalized_opening + running_amount - booked_amount)
        when is_covered and quality in ('quiet', 'stated') and booked_count = 0
            then coalesce(normalized_observed, normalized_before, normalized_after) + running_amount
    end::decimal(38, 9) as max_balance,
    case
        when difference <> 0 and (doubt is null or doubt = 'first_balance') then difference
    end::decimal(38, 9) as gap_amount,

    -- attributes
    booked_count,
    case
        when normalized_observed is not null then 'observed'
        when not is_covered then 'unknown'
        when quality = 'quiet' and normalized_before is not null then 'carried'
        when coalesce(normalized_before, normalized_after) is not null then 'derived'
        else 'unknown'
    end as closing_method,
    case
        when difference <> 0 and (doubt is null or doubt = 'first_balance') then 'gap'
        when doubt is null then 'proved'
        else 'unprovable'
    end as verdict,
    case
        when doubt is not null or difference <> 0 then null
        when quality = 'chained' then 'movements'
        when normalized_observed is not null then 'stated_balance'
        else 'between_balances'
    end as proof,
    case
        when not (coalesce(difference, 0) <> 0 and doubt = 'first_balance') or difference is null
            then doubt
    end as reason,

    -- flags
    is_newest,

    -- times
    from_date,
    to_date,
    case
        when difference <> 0 and (doubt is null or doubt = 'first_balance')
            then
                if(
                    normalized_before is null or normalized_opening = normalized_before,
                    from_date,
                    last_balance_date
                )
    end as gap_from_date,
    case
        when normalized_observed is not null then to_date else last_balance_date
    end as last_observed_date,
    riyadh_month,

    -- trace
    stated_pull_id
from verdicts
