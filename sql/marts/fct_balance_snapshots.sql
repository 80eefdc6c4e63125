-- Every balance that banks ever stated, by type and by pull.
--
-- subject: balances
-- grain:  one row per account id, balance type and pull
-- key:    account_id, balance_type, pull_id
-- stored: view
-- counts: all types; never add or compare two types, and mind included_credit
-- zone:   instants are UTC, stated_date is Riyadh's
-- columns:
--   currency  Currency, ISO 4217; see currency_code.
--   signed_amount   The balance with its sign, in units of currency; null where the bank's
--                   indicator is unknown or contradicts the amount.
--   stated_date     Riyadh day of the bank's time for this balance; may be old.
--   staleness       Age of the bank's time for the balance when the bank was asked, in whole days;
--                   null where the bank gives no time.
--   is_newest       Whether it is the newest balance of its account id and type.
-- sample: select stated_date, signed_amount from fct_balance_snapshots
--         where balance_type = 'INTERIM_BOOKED' order by account_key, refreshed_at
select
    -- ids
    bridge_accounts.account_key,
    balances.account_id,
    balances.entity_id,

    -- money
    balances.balance_type,
    currency_code(balances.currency) as currency,
    signed(balances.amount, balances.credit_debit_indicator) as signed_amount,

    -- flags
    row_number() over (
        partition by balances.account_id, balances.balance_type
        order by
            coalesce(balances.refreshed_at, balances.known_at, balances.asked_at) desc,
            coalesce(balances.known_at, balances.asked_at) desc,
            coalesce(balances.generation, 0) desc,
            pull_tie(balances.generation, balances.pull_id) desc
    ) = 1 as is_newest,

    -- times
    balances.stated_at,
    riyadh_date(balances.stated_at) as stated_date,
    date_sub(
        'day',
        balances.stated_at,
        coalesce(balances.refreshed_at, balances.known_at, balances.asked_at)
    ) as staleness,
    balances.refreshed_at,
    balances.asked_at,

    -- trace
    balances.pull_id
from balances_history as balances
inner join bridge_accounts on balances.account_id = bridge_accounts.account_id
