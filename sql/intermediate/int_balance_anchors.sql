-- Rows of int_balance_carry_forwards, kept by month. Where a month stays as it was, no table that
-- reads it is built again.
--
-- grain:  one row per account, currency and Riyadh month from the first to the last that is known
-- key:    account_key, currency, riyadh_month
-- stored: by riyadh_month
-- apart:  account by account_key
-- formerly: fct_balance_anchors
-- zone:   days and months are Riyadh's
select carry_forwards.*
from int_balance_carry_forwards as carry_forwards
where carry_forwards.riyadh_month in (select months.riyadh_month from int_balance_months as months)
