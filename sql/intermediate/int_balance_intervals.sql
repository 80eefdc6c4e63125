-- The booked balance of each account over time, held against the movements. Days with movements
-- stand alone, quiet ones in stretches; mart_balance_reconciliation and fct_balances_daily tell it
-- day by day.
--
-- grain:  one row per account, currency and stretch of Riyadh days within a month
-- key:    account_key, currency, from_date
-- stored: by riyadh_month
-- formerly: fct_balance_stretches
-- counts: booked movements and booked balances
-- zone:   days and months are Riyadh's
-- columns:
--   account_key         The real account; see bridge_accounts.
--   currency            Currency of the amounts, ISO 4217.
--   riyadh_month        Riyadh month as YYYY-MM.
--   from_date           First day of the stretch.
--   to_date             Last day of the stretch, inclusive.
--   opening_balance     Booked balance at the start of the first day, in units of currency; null
--                       where unknown.
--   booked_amount       Sum of what was booked, in units of currency; zero on quiet days.
--   booked_count        Booked movements.
--   expected_balance    The last balance told earlier and all that was booked since, in units of
--                       currency; null where none was told.
--   observed_balance    Balance at the end of the last day as the bank tells it, in units of
--                       currency: after the day's last movement, or stated when the bank was asked;
--                       null where it tells none.
--   closing_balance     Booked balance at the end of the last day, in units of currency: observed,
--                       carried or derived; null where unknown.
--   closing_method      observed; carried from the day before; derived from the nearest balance
--                       that was told and what was booked in between; unknown.
--   min_balance         Lowest booked balance of a day of the stretch, in units of currency; null
--                       where unknown.
--   max_balance         Highest booked balance of a day of the stretch, in units of currency; null
--                       where unknown.
--   gap_amount          observed_balance less expected_balance where they differ and nothing
--                       unknown lies between, in units of currency: what is missing from the
--                       movements, with its sign.
--   gap_from_date       First day on which what is missing can lie; the last one is from_date.
--   verdict             proved, gap or unprovable.
--   proof               What proves it: movements (each of the day tells the balance after it),
--                       stated_balance (the bank stated it that day, and it follows from the one
--                       told before) or between_balances (those told before and after it agree);
--                       null unless proved.
--   reason              Why it is unprovable: no_balances (the account never tells any),
--                       first_balance (nothing earlier to hold it against), before_first_balance,
--                       after_last_balance, gap_later (the next balance does not fit; see there),
--                       not_covered (a quiet day that is not known from midnight to midnight),
--                       unknown_before (days or signs between it and the last balance
--                       are unknown), or the day's quality in int_balance_days.
--   last_observed_date  Day of the newest balance told up to the end of the stretch.
--   is_newest           Whether it holds the account's last known day.
--   stated_pull_id      The pull whose stated balance is the observed one.
-- sample: select verdict, reason, sum(to_date - from_date + 1) as days from int_balance_intervals
--         group by all order by all
with anchors as (

    select
        *,
        -- What follows is sorted by account and month, and numbers sort faster than texts.
        row_number() over (order by account_key, currency, riyadh_month) as place,
        (
            strptime(riyadh_month || '-01', '%Y-%m-%d') - interval 3 hour
        ) at time zone 'UTC' as month_start
    from int_balance_anchors

),

-- Each month starts with a day before it, after which its first quiet days are written.
days as (

    select
        anchors.place,
        told.booking_date,
        told.booked_amount,
        told.booked_count,
        told.unknown_sign_count,
        told.quality,
        told.openings,
        told.closings,
        told.is_circular,
        told.min_balance,
        told.max_balance,
        told.known_from_at,
        told.stated_pull_id as day_pull_id
    from int_balance_days as told
    inner join anchors
        on
            told.account_key = anchors.account_key
            and told.currency = anchors.currency
            and told.riyadh_month = anchors.riyadh_month

    union all

    select
        place,
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
        partition by place
        order by booking_date
        rows unbounded preceding
    )

),

-- A level is a balance less all that was booked in the month before it, so that it stays what it
-- is as long as no movement is missing.
leveled as (

    select
        * exclude (openings, closings),
        moved_by(openings, booked_amount - running_amount) as opening_levels,
        moved_by(closings, -running_amount) as closing_levels
    from running

),

totals as (

    select
        place,
        sum(booked_amount) as month_amount
    from days
    group by place

),

around as (

    select
        anchors.*,
        moved_by(anchors.balances_after, -totals.month_amount) as levels_after,
        case
            when anchors.stated_balance is not null
                then (anchors.stated_balance - totals.month_amount)::decimal(38, 9)
        end as stated_level
    from anchors
    inner join totals on anchors.place = totals.place

),

-- Months in which a day, or the months around, leave several starts or ends over; the others need
-- no neighbours.
ambiguous as (

    select place
    from leveled
    where len(opening_levels) > 1 or len(closing_levels) > 1
    union distinct
    select place
    from around
    where len(balances_before) > 1 or len(levels_after) > 1

),

neighbours as (

    select
        leveled.*,
        null::decimal(38, 9)[] as previous_levels,
        null::decimal(38, 9)[] as next_levels
    from leveled
    anti join ambiguous on leveled.place = ambiguous.place

    union all

    select
        leveled.*,
        coalesce(
            lag(leveled.closing_levels ignore nulls) over by_day, around.balances_before
        ) as previous_levels,
        coalesce(
            lead(leveled.opening_levels ignore nulls) over by_day, around.levels_after
        ) as next_levels
    from leveled
    inner join around on leveled.place = around.place
    inner join ambiguous on leveled.place = ambiguous.place
    window by_day as (
        partition by leveled.place
        order by leveled.booking_date
    )

),

-- Where a day leaves several starts or ends over, the one that fits its neighbour is meant.
started as (

    select
        *,
        case
            when len(opening_levels) = 1 then opening_levels[1]
            else coalesce(
                first_within(opening_levels, previous_levels),
                case when is_circular then first_within(opening_levels, next_levels) end,
                opening_levels[1]
            )
        end as opening_level
    from neighbours

),

ended as (

    select
        * exclude (opening_levels, closing_levels, previous_levels, next_levels),
        case
            when is_circular then opening_level
            when len(closing_levels) = 1 then closing_levels[1]
            else coalesce(first_within(closing_levels, next_levels), closing_levels[1])
        end as closing_level,
        case
            when previous_levels is not null then coalesce(opening_levels, next_levels)
        end as levels_here
    from started

),

seen as (

    select
        *,
        lag(
            case
                when closing_level is not null
                    then
                        {
                            'level': closing_level,
                            'date': booking_date,
                            'unknown': running_unknown,
                            'known_from_at': known_from_at
                        }
            end ignore nulls
        ) over by_day as previous_one,
        lead(opening_level ignore nulls) over by_day as next_opening_level,
        lead(booking_date) over by_day as next_date
    from ended
    window by_day as (
        partition by place
        order by booking_date
    )

),

placed as (

    select
        seen.*,
        around.account_key,
        around.currency,
        around.riyadh_month,
        around.levels_after,
        around.stated_level,
        around.doubts_before,
        around.stated_doubts,
        around.tells_balances,
        around.is_last_month,
        around.stated_pull_id,
        around.to_date as span_to,
        around.month_start,
        coalesce(
            seen.previous_one['level'],
            first_within(around.balances_before, seen.levels_here),
            around.balances_before[1]
        ) as level_before,
        coalesce(seen.previous_one['date'], around.told_before_date) as told_date
    from seen
    inner join around on seen.place = around.place

),

judged as (

    select
        *,
        coalesce(closing_level, level_before) as level_so_far,
        coalesce(
            next_opening_level,
            case
                when list_contains(levels_after, coalesce(closing_level, level_before))
                    then coalesce(closing_level, level_before)
            end,
            levels_after[1]
        ) as level_after,
        stated_level is not null and booking_date = span_to as is_stated,
        case
            when closing_level is null then stated_doubts
            when previous_one is null
                then
                    doubts_before
                    + running_unknown - unknown_sign_count
                    + if(known_from_at is not distinct from month_start, 0, 1)
            else
                running_unknown - unknown_sign_count - previous_one['unknown']
                + if(known_from_at is not distinct from previous_one['known_from_at'], 0, 1)
        end as doubts
    from placed

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
                when stated_level is not null and next_date is null
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
        pieces.level_so_far as level_before,
        null as opening_level,
        case when pieces.piece.ends then pieces.stated_level end as observed_level,
        pieces.level_after,
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
            case when pieces.closing_level is not null then pieces.booking_date end,
            pieces.told_date
        ) as told_date,
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
        level_before,
        opening_level,
        case when is_stated then stated_level else closing_level end as observed_level,
        level_after,
        running_amount,
        min_balance as lowest,
        max_balance as highest,
        quality,
        true as is_covered,
        doubts,
        tells_balances,
        is_last_month and booking_date = span_to as is_newest,
        told_date,
        case when is_stated then stated_pull_id else day_pull_id end as stated_pull_id
    from judged
    where quality <> 'start'

),

stretches as (

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
            when observed_level is not null and level_before is not null
                then observed_level - level_before
            -- The first balance of all has only its own day to be held against.
            when observed_level is not null and opening_level is not null
                then observed_level - opening_level
        end as difference,
        case
            when not is_covered then 'not_covered'
            when observed_level is not null
                then
                    case
                        when level_before is null
                            then if(tells_balances, 'first_balance', 'no_balances')
                        when observed_level <> level_before and coalesce(doubts, 0) > 0
                            then 'unknown_before'
                    end
            when level_before = level_after then null
            when not tells_balances then 'no_balances'
            when level_before is null then 'before_first_balance'
            when level_after is null then 'after_last_balance'
            when quality <> 'quiet' then quality
            else 'gap_later'
        end as doubt
    from stretches

)

select
    -- ids
    account_key,

    -- money
    currency,
    case
        when not is_covered then null
        else coalesce(opening_level, level_before, level_after) + running_amount - booked_amount
    end::decimal(38, 9) as opening_balance,
    booked_amount::decimal(38, 9) as booked_amount,
    (level_before + running_amount)::decimal(38, 9) as expected_balance,
    (observed_level + running_amount)::decimal(38, 9) as observed_balance,
    case
        when is_covered or observed_level is not null
            then coalesce(observed_level, level_before, level_after) + running_amount
    end::decimal(38, 9) as closing_balance,
    case
        when quality = 'chained'
            then least(lowest, opening_level + running_amount - booked_amount)
        when is_covered and quality in ('quiet', 'stated') and booked_count = 0
            then coalesce(observed_level, level_before, level_after) + running_amount
    end::decimal(38, 9) as min_balance,
    case
        when quality = 'chained'
            then greatest(highest, opening_level + running_amount - booked_amount)
        when is_covered and quality in ('quiet', 'stated') and booked_count = 0
            then coalesce(observed_level, level_before, level_after) + running_amount
    end::decimal(38, 9) as max_balance,
    case
        when difference <> 0 and (doubt is null or doubt = 'first_balance') then difference
    end::decimal(38, 9) as gap_amount,

    -- attributes
    booked_count,
    case
        when observed_level is not null then 'observed'
        when not is_covered then 'unknown'
        when quality = 'quiet' and level_before is not null then 'carried'
        when coalesce(level_before, level_after) is not null then 'derived'
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
        when observed_level is not null then 'stated_balance'
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
                    level_before is null or opening_level = level_before,
                    from_date,
                    told_date
                )
    end as gap_from_date,
    case when observed_level is not null then to_date else told_date end as last_observed_date,
    riyadh_month,

    -- trace
    stated_pull_id
from verdicts
