-- What an account spends on, by category and month of booking. Transfers between the customer's own
-- accounts are not spending. Refunds and reversals are shown beside spending, in the month in which
-- they came back.
--
-- subject: money
-- grain:  one row per account, currency, Riyadh month of booking and category
-- key:    account_key, currency, booking_month, category
-- stored: by month, reading -1 to +0
-- apart:  account by account_key
-- counts: booked movements that are not internal transfers: money out is spent, unless it is a
--         reversal, which takes back what came in; money in counts only if it is a refund or a
--         reversal. The movements are those of fct_transactions with the same account, currency,
--         booking_month and category
-- columns:
--   spend                  Money out, above zero, in units of currency, before refunds.
--   refunds_and_reversals  Money that came back from merchants in this month, above zero.
--   net_spend              spend less refunds_and_reversals; below zero where more came back.
--   movement_count         Movements that spend is made of.
--   refund_count           Movements that refunds_and_reversals is made of.
--   merchant_count         Different merchants among the movements that spend is made of.
--   english_name           Category in English.
--   arabic_name            Category in Arabic.
--   is_essential           Whether a household cannot put it off for long; null for a category that
--                          the seed does not know.
--   first_booking_date     Riyadh day of the first of the movements.
--   last_booking_date      Riyadh day of the last of the movements.
--   covered_days           Days of the month that are known from midnight to midnight in Riyadh.
--   is_full_month          Whether every day of the month is known, so that its sums are complete.
--   opaque_share           Share of the account's money that moved in the month and was not
--                          understood. It may be spending too; see fct_opacity_monthly.
--   month                  booking_month as YYYY-MM.
-- sample: select booking_month, english_name, sum(net_spend) as spent from fct_spend_monthly
--         where currency = 'SAR' group by all order by booking_month, spent desc
with movements as (

    select
        account_key,
        currency,
        booking_month,
        category,
        booking_date,
        signed_amount,
        merchant_match
    from fct_transactions
    where
        is_booked
        and not is_internal_transfer
        and (
            (direction = 'out' and not is_reversal)
            or (direction = 'in' and (is_reversal or sub_transaction_type = 'REFUND'))
        )

),

spent as (

    select
        account_key,
        currency,
        booking_month,
        category,
        strftime(booking_month, '%Y-%m') as month,
        -coalesce(sum(signed_amount) filter (where signed_amount < 0), 0) as spend,
        coalesce(sum(signed_amount) filter (where signed_amount > 0), 0) as refunds,
        -sum(signed_amount) as net_spend,
        count(*) filter (where signed_amount < 0) as movement_count,
        count(*) filter (where signed_amount > 0) as refund_count,
        count(distinct merchant_match) filter (where signed_amount < 0) as merchant_count,
        min(booking_date) as first_booking_date,
        max(booking_date) as last_booking_date
    from movements
    group by account_key, currency, booking_month, category

)

select
    -- ids
    spent.account_key,
    spent.booking_month,
    spent.category,

    -- money
    spent.currency,
    spent.spend::decimal(38, 9) as spend,
    spent.refunds::decimal(38, 9) as refunds_and_reversals,
    spent.net_spend::decimal(38, 9) as net_spend,

    -- counts
    spent.movement_count,
    spent.refund_count,
    spent.merchant_count,

    -- attributes
    coalesce(categories.english_name, spent.category) as english_name,
    coalesce(categories.arabic_name, spent.category) as arabic_name,
    categories.is_essential::boolean as is_essential,

    -- times
    spent.first_booking_date,
    spent.last_booking_date,
    spent.month,

    -- coverage
    opacity.opaque_share,
    coalesce(months.covered_days, 0) as covered_days,
    coalesce(months.is_full_month, false) as is_full_month
from spent
left join categories on spent.category = categories.category
left join fct_opacity_monthly as opacity
    on
        spent.account_key = opacity.account_key
        and spent.currency is not distinct from opacity.currency
        and spent.month = opacity.month
left join int_account_months as months
    on spent.account_key = months.account_key and spent.month = months.riyadh_month
