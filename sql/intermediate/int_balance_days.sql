-- Possible balances of each day, before its first and after its last movement, whatever the order
-- in which the bank lists them. If movements carry no balance, the bank's stated balance is used.
--
-- Each movement leads from one balance (the balance after it less its amount) to another balance.
-- If all movements of a day are known, each balance that a movement reaches is the start of the
-- next movement. Then a single start and a single end are left over; if a movement is missing, more
-- are left over.
--
-- grain:  one row per account, currency and Riyadh day with booked movements or a stated balance
-- key:    account_key, currency, booking_date
-- stored: by riyadh_month, reading -1 to 0
-- apart:  account by account_key
-- formerly: fct_balance_days
-- counts: booked movements; balances of booked kinds in the movements' currency, because balances
--         of other kinds hold money that is not booked
-- zone:   days and riyadh_month are Riyadh's
-- columns:
--   account_key         The real account; see bridge_accounts.
--   currency            Currency of the amounts, ISO 4217.
--   booking_date        The Riyadh day.
--   riyadh_month        Riyadh month of booking_date as YYYY-MM.
--   booked_amount       Sum of the day's signed amounts, in units of currency, without movements of
--                       unknown sign.
--   booked_count        Booked movements.
--   unknown_sign_count  Booked movements whose sign is unknown.
--   quality             chained where each movement has its balance; else stated where the bank
--                       stated its balance; else no_balances, mixed_balance_types (some balances
--                       are of a kind that is not booked, or in another currency),
--                       some_without_balance or unknown_sign.
--   openings            Possible balances at the start of the day, in units of currency, ascending;
--                       null unless chained or stated.
--   closings            Possible balances at the end of the day, in units of currency, ascending;
--                       null unless chained or stated.
--   is_circular         Whether the day ends at the balance at which it started, which is in
--                       openings.
--   min_balance         Lowest balance after a movement, in units of currency.
--   max_balance         Highest balance after a movement, in units of currency.
--   known_from_at       Start of the interval of int_account_coverage that holds the day, UTC; null
--                       where no interval does.
--   stated_pull_id      The pull that brought the balance where quality is stated.
-- sample: select quality, count(*) as days from int_balance_days group by all order by all
with movements as (

    select
        account_key,
        currency,
        booking_date,
        signed_amount,
        signed_balance is not null as has_balance,
        case
            when
                coalesce(balance_type, 'BOOKED') like '%BOOKED'
                and coalesce(balance_currency, currency) = currency
                then signed_balance
        end as balance
    from fct_transactions
    where is_booked and in_part(booking_date)

),

days as (

    select
        account_key,
        currency,
        booking_date,
        coalesce(sum(signed_amount), 0)::decimal(38, 9) as booked_amount,
        count(*) as booked_count,
        count(*) - count(signed_amount) as unknown_sign_count,
        case
            when count(balance) = count(*)
                then if(count(signed_amount) = count(*), 'chained', 'unknown_sign')
            when count(*) filter (where has_balance) > count(balance) then 'mixed_balance_types'
            when count(balance) = 0 then 'no_balances'
            else 'some_without_balance'
        end as quality,
        min(balance) as min_balance,
        max(balance) as max_balance
    from movements
    group by account_key, currency, booking_date

),

steps as (

    select
        movements.account_key,
        movements.currency,
        movements.booking_date,
        movements.balance,
        movements.signed_amount
    from movements
    semi join days
        on
            movements.account_key = days.account_key
            and movements.currency = days.currency
            and movements.booking_date = days.booking_date
            and days.quality = 'chained'
            and days.booked_count > 1

),

normalized_balances as (

    select
        account_key,
        currency,
        booking_date,
        normalized_balance,
        sum(departures) as surplus
    from (
        select
            account_key,
            currency,
            booking_date,
            balance - signed_amount as normalized_balance,
            1 as departures
        from steps
        union all
        select
            account_key,
            currency,
            booking_date,
            balance as normalized_balance,
            -1 as departures
        from steps
    ) as both_ends
    group by account_key, currency, booking_date, normalized_balance

),

ends as (

    select
        account_key,
        currency,
        booking_date,
        bool_and(surplus = 0) as is_circular,
        list(normalized_balance order by normalized_balance) filter (where surplus > 0) as openings,
        list(normalized_balance order by normalized_balance) filter (where surplus < 0) as closings,
        list(normalized_balance order by normalized_balance) as turns
    from normalized_balances
    group by account_key, currency, booking_date

),

stated as (

    select *
    from int_balance_statements
    where in_part(stated_date)

),

day_balances as (

    select
        coalesce(days.account_key, stated.account_key) as account_key,
        coalesce(days.currency, stated.currency) as currency,
        coalesce(days.booking_date, stated.stated_date) as booking_date,
        coalesce(days.booked_amount, 0)::decimal(38, 9) as booked_amount,
        coalesce(days.booked_count, 0) as booked_count,
        coalesce(days.unknown_sign_count, 0) as unknown_sign_count,
        case
            when days.quality = 'chained' or stated.account_key is null then days.quality
            else 'stated'
        end as quality,
        days.min_balance,
        days.max_balance,
        stated.closing_balance,
        stated.pull_id
    from days
    full outer join stated
        on
            days.account_key = stated.account_key
            and days.currency = stated.currency
            and days.booking_date = stated.stated_date

),

known as (

    select
        account_key,
        known_from_at,
        to_date,
        greatest(
            from_date,
            lag(to_date) over (partition by account_key order by known_from_at) + 1
        ) as from_date
    from int_account_coverage

)

select
    -- ids
    days.account_key,

    -- money
    days.currency,
    days.booked_amount,
    case
        when days.quality = 'stated'
            then [(days.closing_balance - days.booked_amount)::decimal(38, 9)]
        when days.quality <> 'chained' then null
        when days.booked_count = 1 then [days.min_balance - days.booked_amount]
        when ends.is_circular then ends.turns
        else ends.openings
    end as openings,
    case
        when days.quality = 'stated' then [days.closing_balance]
        when days.quality <> 'chained' then null
        when days.booked_count = 1 then [days.min_balance]
        when ends.is_circular then ends.turns
        else ends.closings
    end as closings,
    days.min_balance,
    days.max_balance,

    -- attributes
    days.quality,
    days.booked_count,
    days.unknown_sign_count,

    -- flags
    coalesce(ends.is_circular, days.quality = 'chained' and days.booked_amount = 0) as is_circular,

    -- times
    days.booking_date,
    strftime(days.booking_date, '%Y-%m') as riyadh_month,
    known.known_from_at,

    -- trace
    case when days.quality = 'stated' then days.pull_id end as stated_pull_id
from day_balances as days
left join ends
    on
        days.account_key = ends.account_key
        and days.currency = ends.currency
        and days.booking_date = ends.booking_date
left join known
    on
        days.account_key = known.account_key
        and days.booking_date between known.from_date and known.to_date
