-- Currencies that a real account is kept in, even if nothing moves in them.
--
-- grain:  one row per account and currency
-- key:    account_key, currency
-- stored: table
-- apart:  account by account_key
-- formerly: bridge_account_currencies
-- counts: the account's own currency, and those of the balances that its bank states
-- columns:
--   account_key   The real account; see bridge_accounts.
--   currency      Currency, ISO 4217.
--   opening_date  Day of opening as the bank writes it, the earliest if its ids differ.
-- sample: select currency, count(*) as accounts from int_account_currencies group by all
with known as (

    select
        account_id,
        currency_code(currency) as currency,
        opening_date
    from accounts
    where currency is not null

    union all

    select distinct
        account_id,
        currency_code(currency) as currency,
        null::date as opening_date
    from balances

),

named as (

    select
        bridge_accounts.account_key,
        known.currency,
        min(known.opening_date) as opening_date
    from known
    inner join bridge_accounts on known.account_id = bridge_accounts.account_id
    group by bridge_accounts.account_key, known.currency

)

select
    account_key,
    currency,
    min(opening_date) over (partition by account_key) as opening_date
from named
