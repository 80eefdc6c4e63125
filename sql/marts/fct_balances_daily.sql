-- The booked balance at the end of each day, without gaps: as the bank stated it, else carried
-- forward or derived from the movements. It is null where neither is possible.
--
-- subject: balances
-- grain:  one row per account, currency and Riyadh day from the first to the last that is known
-- key:    account_key, currency, balance_date
-- stored: view
-- counts: booked movements and booked balances; an arranged overdraft or a credit line is not
--         included
-- zone:   days are Riyadh's
-- columns:
--   balance_date    The day; the last day only up to the instant at which the bank was asked.
--   is_proved       Whether movements and balances around the day agree; see
--                   mart_balance_reconciliation.
--   has_unfit_records  Whether records of the day did not fit, so that movements or the balance may
--                   be missing; see int_unfit_days.
--   staleness_days  Days since the newest known balance that it rests on; null where it rests on a
--                   later balance.
-- sample: select balance_date, closing_balance, closing_method from fct_balances_daily
--         where account_key = '…' order by balance_date
with days as (

    select
        *,
        unnest(generate_series(from_date, to_date, interval 1 day))::date as balance_date
    from int_balance_intervals

)

select
    -- ids
    days.account_key,

    -- money
    days.currency,
    days.closing_balance,
    days.min_balance,
    days.max_balance,

    -- attributes
    days.closing_method,
    days.balance_date - days.last_observed_date as staleness_days,

    -- flags
    days.verdict = 'proved' as is_proved,
    unfit.account_key is not null as has_unfit_records,

    -- times
    days.balance_date
from days
left join int_unfit_days as unfit
    on days.account_key = unfit.account_key and days.balance_date = unfit.unfit_date
