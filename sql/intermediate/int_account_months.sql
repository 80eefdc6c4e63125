-- How many days of each month are known of an account. Averages and counts of months rest on it.
--
-- grain:  one row per account and Riyadh month of which anything is known
-- key:    account_key, riyadh_month
-- stored: by riyadh_month
-- apart:  account by account_key
-- formerly: fct_account_months
-- counts: days that int_account_coverage knows from midnight to midnight
-- zone:   days and months are Riyadh's
-- columns:
--   covered_days       Days of the month that are known from midnight to midnight.
--   month_days         Days that the month has.
--   is_full_month      Whether all of them are known.
--   covered_from       First day that is known from midnight to midnight; null where no day is.
--   covered_to         Last day that is known from midnight to midnight; null where no day is.
--   data_through_date  Last day of which something is known.
-- sample: select riyadh_month, count(*) filter (where is_full_month) as full_months
--         from int_account_months group by all order by riyadh_month
select
    -- ids
    account_key,
    riyadh_month,

    -- coverage
    coalesce(
        sum(whole_to_date - whole_from_date + 1) filter (where whole_from_date <= whole_to_date), 0
    )::integer as covered_days,
    day(last_day((riyadh_month || '-01')::date))::integer as month_days,
    coalesce(
        sum(whole_to_date - whole_from_date + 1) filter (where whole_from_date <= whole_to_date), 0
    ) = day(last_day((riyadh_month || '-01')::date)) as is_full_month,
    min(whole_from_date) filter (where whole_from_date <= whole_to_date) as covered_from,
    max(whole_to_date) filter (where whole_from_date <= whole_to_date) as covered_to,
    max(to_date) as data_through_date
from int_account_coverage
group by account_key, riyadh_month
