-- Money in and out of each account by day. Transfers between a customer's own accounts are shown
-- separately.
--
-- subject: money
-- grain:  one row per account, currency and Riyadh day with booked movements
-- key:    account_key, currency, booking_date
-- stored: by riyadh_month, reading -1 to 0
-- apart:  account by account_key
-- counts: booked movements; reversals and reversed movements count on both sides; a day without a
--         row had no movement if int_account_coverage has it, else it is unknown
-- zone:   days and riyadh_month are Riyadh's
-- columns:
--   riyadh_month         Riyadh month of booking_date as YYYY-MM.
--   inflow_amount        Money in, without internal transfers, in units of currency.
--   outflow_amount       Money out, without internal transfers and without its sign, in units of
--                        currency.
--   net_amount           inflow_amount less outflow_amount; null where a movement of the day has no
--                        known sign.
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
--                        without sign; see is_opaque. Movements without a known sign are included.
--   opaque_share         opaque_amount over all money that moved without internal transfers, from 0
--                        to 1, rounded half up to four places; null where nothing moved.
--   is_whole_day         Whether the day is known from midnight to midnight, so that nothing is
--                        missing from it.
-- sample: select currency, booking_date, sum(inflow_amount) as inflow,
--         sum(outflow_amount) as outflow from fct_cash_flow_daily group by all order by all
with days as (

    select
        account_key,
        currency,
        booking_date,
        coalesce(
            sum(signed_amount) filter (where signed_amount > 0 and not is_internal_transfer), 0
        )::decimal(38, 9) as inflow_amount,
        coalesce(
            sum(-signed_amount) filter (where signed_amount < 0 and not is_internal_transfer), 0
        )::decimal(38, 9) as outflow_amount,
        coalesce(
            sum(signed_amount) filter (where signed_amount > 0 and is_internal_transfer), 0
        )::decimal(38, 9) as internal_in_amount,
        coalesce(
            sum(-signed_amount) filter (where signed_amount < 0 and is_internal_transfer), 0
        )::decimal(38, 9) as internal_out_amount,
        coalesce(
            sum(abs(amount)) filter (where not is_internal_transfer), 0
        )::decimal(38, 9) as moved_amount,
        coalesce(
            sum(abs(amount)) filter (
                where not is_internal_transfer
                and is_opaque(direction, category, transaction_type, sub_transaction_type)
            ),
            0
        )::decimal(38, 9) as opaque_amount,
        count(*) as booked_count,
        count(*) filter (where signed_amount > 0 and not is_internal_transfer) as inflow_count,
        count(*) filter (where signed_amount < 0 and not is_internal_transfer) as outflow_count,
        count(*) filter (where signed_amount <> 0 and is_internal_transfer) as internal_count,
        count(*) filter (where signed_amount is null) as unknown_sign_count
    from fct_transactions
    where is_booked and in_part(booking_date)
    group by account_key, currency, booking_date

)

select
    -- ids
    days.account_key,

    -- money
    days.currency,
    days.inflow_amount,
    days.outflow_amount,
    case when days.unknown_sign_count = 0 then days.inflow_amount - days.outflow_amount end
        as net_amount,
    days.internal_in_amount,
    days.internal_out_amount,
    days.opaque_amount,
    share_of(days.opaque_amount, days.moved_amount) as opaque_share,

    -- counts
    days.booked_count,
    days.inflow_count,
    days.outflow_count,
    days.internal_count,
    days.unknown_sign_count,

    -- flags
    coverage.account_key is not null as is_whole_day,

    -- times
    days.booking_date,
    strftime(days.booking_date, '%Y-%m') as riyadh_month
from days
left join int_account_coverage as coverage
    on
        days.account_key = coverage.account_key
        and days.booking_date between coverage.whole_from_date and coverage.whole_to_date
