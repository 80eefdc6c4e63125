-- fct_balance_carries by month, so that one that stays as it was changes nothing that rests on it.
--
-- grain:  one row per account, currency and Riyadh month from the first to the last that is known
-- key:    account_key, currency, riyadh_month
-- stored: by riyadh_month
-- zone:   days and months are Riyadh's
select carries.*
from fct_balance_carries as carries
where carries.riyadh_month in (select months.riyadh_month from fct_balance_months as months)
