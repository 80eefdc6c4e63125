-- Booked balances that banks stated and that can be compared with the movements known at that
-- instant, the last balance of each day. Accounts whose booked movements all carry a balance are
-- left out.
--
-- A balance holds what its bank had booked when it was asked, whatever day the bank writes on a
-- movement. closing_balance is that balance at the end of the day as movements are dated. It leaves
-- out movements that were known then and have changed or vanished since. It includes movements of
-- that day or earlier that became known later.
--
-- grain:  one row per account, currency and Riyadh day on which a usable balance was stated
-- key:    account_key, currency, stated_date
-- stored: by riyadh_month, reading -1 to 0
-- apart:  account by account_key
-- formerly: fct_balance_statements
-- counts: balances of type INTERIM_BOOKED whose bank was asked for movements within ten minutes;
--         movements dated in the day's UTC month or the month before
-- zone:   days and riyadh_month are Riyadh's
-- columns:
--   currency  Currency, ISO 4217; see currency_code.
--   riyadh_month     Riyadh month of stated_date as YYYY-MM.
--   closing_balance  Booked balance at the end of the day, worked out from stated_balance, in units
--                    of currency.
--   stated_balance   The balance as stated, in units of currency.
--   stated_at        When the bank was asked for it, UTC.
--   stated_date      Riyadh day of stated_at.
-- sample: select stated_date, stated_balance, closing_balance from int_balance_statements
--         where account_key = '…' order by stated_date
with accounts_with_balances as (

    select account_key
    from fct_transactions
    where is_booked
    group by account_key
    having
        bool_and(
            signed_balance is not null
            and coalesce(balance_type, 'BOOKED') like '%BOOKED'
            and coalesce(balance_currency, currency) = currency
        )

),

reads as (

    select distinct
        parent_id as account_id,
        coalesce(refreshed_at, known_at, asked_at) as bank_asked_at
    from pulls
    where stream = 'transactions' and outcome = 'COMMITTED'

),

candidates as (

    select
        bridge_accounts.account_key,
        balances.account_id,
        currency_code(balances.currency) as currency,
        signed(balances.amount, balances.credit_debit_indicator) as stated_balance,
        balances.refreshed_at as stated_at,
        balances.refreshed_at + interval 10 minutes as held_to_at,
        coalesce(balances.known_at, balances.asked_at) as asked_at,
        balances.generation,
        balances.pull_id
    from balances_history as balances
    inner join bridge_accounts on balances.account_id = bridge_accounts.account_id
    left join accounts_with_balances
        on bridge_accounts.account_key = accounts_with_balances.account_key
    where balances.balance_type = 'INTERIM_BOOKED' and accounts_with_balances.account_key is null

),

stated as (

    select
        candidates.*,
        riyadh_date(candidates.stated_at) as stated_date
    from candidates
    asof inner join reads
        on candidates.account_id = reads.account_id and candidates.held_to_at >= reads.bank_asked_at
    where
        candidates.stated_balance is not null
        and reads.bank_asked_at >= candidates.stated_at - interval 10 minutes
    qualify
        row_number() over (
            partition by
                candidates.account_key, candidates.currency, riyadh_date(candidates.stated_at)
            order by
                candidates.stated_at desc,
                candidates.asked_at desc,
                coalesce(candidates.generation, 0) desc,
                pull_tie(candidates.generation, candidates.pull_id) desc,
                candidates.account_id desc
        ) = 1

),

-- Since when and until when each movement was known to be booked with its amount. On days that were
-- read for the first time, its own date says since when.
spells as (

    select
        history.account_id,
        history.transaction_id,
        history.month,
        history.currency,
        history.status,
        history.change_kind,
        history.signed_amount,
        if(
            history.version = 1 and not history.is_late, history.placed_at, history.told_at
        ) as known_at,
        lead(history.told_at) over (
            partition by history.account_id, history.transaction_id, history.month
            order by history.version
        ) as known_to_at
    from fct_transaction_history as history
    semi join stated on history.account_id = stated.account_id

),

movements as (

    select
        ledger.account_key,
        bridge_accounts.account_id,
        ledger.transaction_id,
        ledger.month,
        ledger.currency,
        ledger.booking_date,
        ledger.placed_at,
        ledger.signed_amount
    from fct_transactions as ledger
    inner join bridge_accounts on ledger.account_key = bridge_accounts.account_key
    semi join stated on bridge_accounts.account_id = stated.account_id
    where ledger.is_booked and ledger.signed_amount is not null

),

-- From the day that a movement is dated to the day on which it became known, balances lack it.
-- While a version was known that no longer counts, balances hold it.
differing as (

    select
        movements.account_id,
        movements.currency,
        movements.signed_amount,
        coalesce(spells.known_at, movements.placed_at) as turns_at,
        null as until_at,
        unnest(generate_series(
            movements.booking_date,
            riyadh_date(coalesce(spells.known_at, movements.placed_at)),
            interval 1 day
        ))::date as stated_date
    from movements
    left join spells
        on
            movements.account_id = spells.account_id
            and movements.transaction_id = spells.transaction_id
            and movements.month = spells.month
            and spells.known_to_at is null
            and spells.status = 'BOOKED'
            and spells.change_kind <> 'vanished'

    union all

    select
        account_id,
        currency,
        -signed_amount as signed_amount,
        known_at as turns_at,
        known_to_at as until_at,
        unnest(generate_series(
            riyadh_date(known_at), riyadh_date(known_to_at), interval 1 day
        ))::date as stated_date
    from spells
    where known_to_at is not null and status = 'BOOKED' and change_kind <> 'vanished'

),

corrections as (

    select
        stated.account_key,
        stated.currency,
        stated.stated_date,
        sum(differing.signed_amount) as amount
    from stated
    inner join differing
        on
            stated.account_id = differing.account_id
            and stated.currency = differing.currency
            and stated.stated_date = differing.stated_date
    where
        if(
            differing.until_at is null,
            differing.turns_at > stated.held_to_at,
            differing.turns_at <= stated.held_to_at and differing.until_at > stated.held_to_at
        )
    group by stated.account_key, stated.currency, stated.stated_date

)

select
    -- ids
    stated.account_key,
    stated.account_id,

    -- money
    stated.currency,
    (stated.stated_balance + coalesce(corrections.amount, 0))::decimal(38, 9) as closing_balance,
    stated.stated_balance,

    -- times
    stated.stated_at,
    stated.stated_date,
    strftime(stated.stated_date, '%Y-%m') as riyadh_month,

    -- trace
    stated.pull_id
from stated
left join corrections
    on
        stated.account_key = corrections.account_key
        and stated.currency = corrections.currency
        and stated.stated_date = corrections.stated_date
