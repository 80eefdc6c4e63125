-- mart_coverage with a row per day.
--
-- subject: trust
-- grain:  one row per real account and UTC day
-- key:    account_key, utc_day
-- stored: view
-- columns:
--   utc_day  The UTC day.
-- sample: select utc_day, status, count(*) as accounts from mart_coverage_days
--         group by all order by all
select
    account_key,
    unnest(generate_series(utc_from, utc_to, interval 1 day))::date as utc_day,
    status,
    reason,
    is_last_good,
    bank_asked_at
from mart_coverage
