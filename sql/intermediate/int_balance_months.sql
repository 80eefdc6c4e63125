-- Balances at the start and the end of each month, from the balances of its days. This step of the
-- reconciliation is small enough to be carried from month to month.
--
-- grain:  one row per account, currency and Riyadh month with booked movements or a known day
-- key:    account_key, currency, riyadh_month
-- stored: by riyadh_month
-- apart:  account by account_key
-- formerly: fct_balance_months
-- zone:   days and months are Riyadh's
-- columns:
--   account_key       The real account; see bridge_accounts.
--   currency          Currency of the amounts, ISO 4217.
--   riyadh_month      Riyadh month as YYYY-MM.
--   booked_amount     Sum of the month's signed amounts, in units of currency.
--   openings          Possible balances at the month's start by the first day with a balance, in
--                     units of currency; null where no day has a balance.
--   closings          Possible balances at the month's end by the last day with a balance, in units
--                     of currency; null where no day has a balance.
--   first_told_on     First day with a balance: its openings are known; see int_balance_days.
--   last_told_on      Last day with a balance.
--   doubts_before     Number of reasons why the sum from the month's start to first_told_on may be
--                     incomplete: days that are not known, movements of unknown sign.
--   doubts_after      The same number from last_told_on to the end of what is known.
--   doubts            The same number from the month's start to the end of what is known.
--   knows_end         Whether what is known reaches the month's end.
--   from_date         First day of the month that is known or has a movement.
--   to_date           Last day of the month that is known or has a movement.
--   known_to_at       Until when the month is known, UTC.
with spans as (

    select
        account_key,
        currency,
        riyadh_month,
        min(booking_date) filter (where openings is not null) as first_told_on,
        max(booking_date) filter (where openings is not null) as last_told_on,
        min(booking_date) as from_date,
        max(booking_date) as to_date
    from int_balance_days
    group by account_key, currency, riyadh_month

),

moved as (

    select
        days.account_key,
        days.currency,
        days.riyadh_month,
        sum(days.booked_amount)::decimal(38, 9) as booked_amount,
        sum(days.unknown_sign_count) as unknown_sign_count,
        any_value(spans.from_date) as from_date,
        any_value(spans.to_date) as to_date,
        any_value(spans.first_told_on) as first_told_on,
        any_value(spans.last_told_on) as last_told_on,
        -- Both days, and what was booked before the first and after the last.
        any_value({ 'balances': days.openings, 'known_from_at': days.known_from_at }) filter (
            where days.booking_date = spans.first_told_on
        ) as first_one,
        any_value({ 'balances': days.closings, 'known_from_at': days.known_from_at }) filter (
            where days.booking_date = spans.last_told_on
        ) as last_one,
        coalesce(
            sum(days.booked_amount) filter (where days.booking_date < spans.first_told_on), 0
        ) as amount_before,
        coalesce(
            sum(days.booked_amount) filter (where days.booking_date > spans.last_told_on), 0
        ) as amount_after,
        coalesce(
            sum(days.unknown_sign_count) filter (where days.booking_date < spans.first_told_on), 0
        ) as unknown_before,
        coalesce(
            sum(days.unknown_sign_count) filter (where days.booking_date > spans.last_told_on), 0
        ) as unknown_after
    from int_balance_days as days
    inner join spans
        on
            days.account_key = spans.account_key
            and days.currency = spans.currency
            and days.riyadh_month = spans.riyadh_month
    group by days.account_key, days.currency, days.riyadh_month

),

covered as (

    select
        account_key,
        riyadh_month,
        min(from_date) as from_date,
        max(to_date) as to_date,
        count(*) as intervals,
        min(known_from_at) as known_from_at,
        max(known_from_at) as last_known_from_at,
        max(known_to_at) as known_to_at,
        min(known_from_at) = (
            strptime(riyadh_month || '-01', '%Y-%m-%d') - interval 3 hour
        ) at time zone 'UTC' as knows_start,
        max(known_to_at) = (
            strptime(riyadh_month || '-01', '%Y-%m-%d') + interval 1 month - interval 3 hour
        ) at time zone 'UTC' as knows_end
    from int_account_coverage
    group by account_key, riyadh_month

),

months as (

    select
        account_key,
        currency,
        riyadh_month
    from moved
    union distinct
    select
        covered.account_key,
        kept.currency,
        covered.riyadh_month
    from covered
    inner join int_account_currencies as kept on covered.account_key = kept.account_key

)

select
    -- ids
    months.account_key,

    -- money
    months.currency,
    coalesce(moved.booked_amount, 0)::decimal(38, 9) as booked_amount,
    moved_by(moved.first_one['balances'], -moved.amount_before) as openings,
    moved_by(moved.last_one['balances'], moved.amount_after) as closings,

    -- attributes
    case
        when moved.first_one is not null
            then
                moved.unknown_before
                + if(
                    covered.knows_start
                    and moved.first_one['known_from_at'] is not distinct from covered.known_from_at,
                    0, 1
                )
    end::bigint as doubts_before,
    case
        when moved.last_one is not null
            then
                moved.unknown_after
                + if(
                    moved.last_one['known_from_at'] = covered.last_known_from_at, 0, 1
                )
    end::bigint as doubts_after,
    (
        coalesce(moved.unknown_sign_count, 0)
        + if(covered.knows_start and covered.intervals = 1, 0, 1)
    )::bigint as doubts,

    -- times
    moved.first_told_on,
    moved.last_told_on,
    least(covered.from_date, moved.from_date) as from_date,
    greatest(covered.to_date, moved.to_date) as to_date,
    covered.known_to_at,
    coalesce(covered.knows_end, false) as knows_end,
    months.riyadh_month
from months
left join moved
    on
        months.account_key = moved.account_key
        and months.currency = moved.currency
        and months.riyadh_month = moved.riyadh_month
left join covered
    on
        months.account_key = covered.account_key
        and months.riyadh_month = covered.riyadh_month
