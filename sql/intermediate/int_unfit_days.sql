-- Days of accounts that are only partly known, because some of their records did not fit.
--
-- grain:  one row per real account and Riyadh day
-- key:    account_key, unfit_date
-- stored: table
-- apart:  account by account_key
-- formerly: fct_unfit_days
-- counts: transactions on both Riyadh days that the UTC day of a record touches; balances on the
--         day on which the bank was asked
-- zone:   unfit_date is Riyadh's
-- columns:
--   account_key  The real account; see dim_accounts.
--   unfit_date   The day.
-- sample: select account_key, count(*) as days from int_unfit_days group by all order by all
with unfit as (

    select
        claims.parent_id as account_id,
        unnest(claims.unfit_dates) as utc_day
    from claims
    where claims.stream = 'transactions' and claims.is_unfit

),

touched as (

    select
        account_id,
        unnest([utc_day, utc_day + 1]) as unfit_date
    from unfit

    union

    select
        claims.parent_id as account_id,
        riyadh_date(coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at)) as unfit_date
    from claims
    inner join pulls on claims.pull_id = pulls.pull_id
    where claims.stream = 'balances' and claims.is_unfit

)

select distinct
    bridge_accounts.account_key,
    touched.unfit_date
from touched
inner join bridge_accounts on touched.account_id = bridge_accounts.account_id
