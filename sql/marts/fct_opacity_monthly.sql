-- Share of the money moved that was not understood. It limits every figure that is derived for an
-- account. Opaque money may be spending, income or an obligation, and is not zero.
--
-- subject: trust
-- grain:  one row per account, currency and Riyadh month with booked movements
-- key:    account_key, currency, month
-- stored: by month, reading -1 to +0
-- apart:  account by account_key
-- counts: booked movements that are not internal transfers, by their amounts without sign
-- columns:
--   month          Riyadh month of booking, YYYY-MM.
--   moved_amount   Money that moved, in and out together, in units of currency.
--   opaque_amount  The part of it that was not understood; see is_opaque.
--   opaque_share   opaque_amount over moved_amount, from 0 to 1, rounded half up to four places;
--                  null where no money moved.
--   moved_count    Movements in moved_amount.
--   opaque_count   Movements in opaque_amount.
-- sample: select month, sum(opaque_amount) / sum(moved_amount) as opaque from fct_opacity_monthly
--         where currency = 'SAR' group by all order by all
with moved as (

    select
        account_key,
        currency,
        booking_month,
        abs(amount) as amount,
        is_opaque(direction, category, transaction_type, sub_transaction_type) as is_opaque
    from fct_transactions
    where is_booked and not is_internal_transfer

),

summed as (

    select
        account_key,
        currency,
        strftime(booking_month, '%Y-%m') as month,
        coalesce(sum(amount), 0)::decimal(38, 9) as moved_amount,
        coalesce(sum(amount) filter (where is_opaque), 0)::decimal(38, 9) as opaque_amount,
        count(*) as moved_count,
        count(*) filter (where is_opaque) as opaque_count
    from moved
    group by account_key, currency, booking_month

)

select
    account_key,
    currency,
    month,
    moved_amount,
    opaque_amount,
    share_of(opaque_amount, moved_amount) as opaque_share,
    moved_count,
    opaque_count
from summed
