-- How many days of each month are known of an account: what averages and counts of months rest on.
--
-- grain:  one row per account and month of which any day is covered
-- key:    account_key, month
-- stored: by month
-- zone:   days and months are UTC, as pulls claim them; a Riyadh month begins three hours earlier
-- columns:
--   covered_days   Days of the month that pulls speak for.
--   month_days     Days that the month has.
--   is_full_month  Whether all of them are covered.
--   covered_from   First covered day.
--   covered_to     Last covered day.
-- sample: select month, count(*) filter (where is_full_month) as full_months
--         from fct_account_months group by all order by month
select
    -- ids
    account_key,
    month,

    -- coverage
    sum(claimed_to - claimed_from + 1)::integer as covered_days,
    day(last_day((month || '-01')::date))::integer as month_days,
    sum(claimed_to - claimed_from + 1) = day(last_day((month || '-01')::date)) as is_full_month,
    min(claimed_from) as covered_from,
    max(claimed_to) as covered_to
from bridge_account_claims
group by account_key, month
