-- Money in and out of each account by month, with the days that the month rests on. A known month
-- without movements has a row with zeros; a month that is known in part says so.
--
-- subject: money
-- grain:  one row per account, currency and Riyadh month with booked movements or a known day
-- key:    account_key, currency, booking_month
-- stored: by riyadh_month
-- apart:  account by account_key
-- counts: booked movements; averages should rest on rows with is_full_month
-- zone:   months and days are Riyadh's
-- columns:
--   account_key          The real account; see bridge_accounts.
--   currency             Currency of the amounts, ISO 4217.
--   riyadh_month         Riyadh month as YYYY-MM.
--   booking_month        First day of the Riyadh month.
--   inflow_amount        Money in, without internal transfers, in units of currency.
--   outflow_amount       Money out, without internal transfers and without its sign, in units of
--                        currency.
--   net_amount           inflow_amount less outflow_amount; null where a movement of the month has
--                        no known sign.
--   internal_in_amount   Money in from accounts of the same customer, in units of currency.
--   internal_out_amount  Money out to accounts of the same customer, without its sign, in units of
--                        currency.
--   booked_count         All booked movements.
--   inflow_count         Movements in inflow_amount.
--   outflow_count        Movements in outflow_amount.
--   internal_count       Movements in the internal amounts.
--   unknown_sign_count   Booked movements whose sign is unknown; no amount of in, out or net
--                        contains them.
--   opaque_amount        Money that moved, without internal transfers, and was not understood,
--                        without sign; see fct_opacity_monthly.
--   opaque_share         opaque_amount over all money that moved without internal transfers; null
--                        where nothing moved.
--   active_days          Days with a booked movement.
--   is_full_month        Whether the month is full in int_account_months, and the account was open
--                        on its first day: an average must not rest on days before the account
--                        existed. An account without an opening date counts as open.
--   covered_days         Days that are known from midnight to midnight.
--   month_days           Days of the month.
--   data_through_date    Last day of the month of which something is known; null where movements
--                        lie on days that no interval covers.
-- sample: select currency, booking_month, sum(net_amount) as net from fct_cash_flow_monthly
--         where is_full_month group by all order by all
with moved as (

    select
        account_key,
        currency,
        riyadh_month,
        sum(inflow_amount)::decimal(38, 9) as inflow_amount,
        sum(outflow_amount)::decimal(38, 9) as outflow_amount,
        sum(internal_in_amount)::decimal(38, 9) as internal_in_amount,
        sum(internal_out_amount)::decimal(38, 9) as internal_out_amount,
        sum(booked_count)::bigint as booked_count,
        sum(inflow_count)::bigint as inflow_count,
        sum(outflow_count)::bigint as outflow_count,
        sum(internal_count)::bigint as internal_count,
        sum(unknown_sign_count)::bigint as unknown_sign_count,
        count(*) as active_days
    from fct_cash_flow_daily
    group by account_key, currency, riyadh_month

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
    from int_account_months as covered
    inner join int_account_currencies as kept on covered.account_key = kept.account_key

),

joined as (

    select
        months.account_key,
        months.currency,
        months.riyadh_month,
        strptime(months.riyadh_month || '-01', '%Y-%m-%d')::date as booking_month,
        coalesce(moved.inflow_amount, 0)::decimal(38, 9) as inflow_amount,
        coalesce(moved.outflow_amount, 0)::decimal(38, 9) as outflow_amount,
        coalesce(moved.internal_in_amount, 0)::decimal(38, 9) as internal_in_amount,
        coalesce(moved.internal_out_amount, 0)::decimal(38, 9) as internal_out_amount,
        coalesce(moved.booked_count, 0) as booked_count,
        coalesce(moved.inflow_count, 0) as inflow_count,
        coalesce(moved.outflow_count, 0) as outflow_count,
        coalesce(moved.internal_count, 0) as internal_count,
        coalesce(moved.unknown_sign_count, 0) as unknown_sign_count,
        coalesce(moved.active_days, 0) as active_days,
        coalesce(opacity.opaque_amount, 0)::decimal(38, 9) as opaque_amount,
        opacity.opaque_share,
        coalesce(covered.covered_days, 0) as covered_days,
        covered.data_through_date,
        kept.opening_date
    from months
    left join moved
        on
            months.account_key = moved.account_key
            and months.currency = moved.currency
            and months.riyadh_month = moved.riyadh_month
    left join int_account_months as covered
        on
            months.account_key = covered.account_key
            and months.riyadh_month = covered.riyadh_month
    left join fct_opacity_monthly as opacity
        on
            months.account_key = opacity.account_key
            and months.currency = opacity.currency
            and months.riyadh_month = opacity.month
    left join int_account_currencies as kept
        on months.account_key = kept.account_key and months.currency = kept.currency

)

select
    -- ids
    account_key,

    -- money
    currency,
    inflow_amount,
    outflow_amount,
    case when unknown_sign_count = 0 then inflow_amount - outflow_amount end as net_amount,
    internal_in_amount,
    internal_out_amount,
    opaque_amount,
    opaque_share,

    -- counts
    booked_count,
    inflow_count,
    outflow_count,
    internal_count,
    unknown_sign_count,
    active_days,
    covered_days,
    day(last_day(booking_month)) as month_days,

    -- flags
    covered_days = day(last_day(booking_month))
    and (opening_date is null or opening_date <= booking_month) as is_full_month,

    -- times
    booking_month,
    data_through_date,
    riyadh_month
from joined
