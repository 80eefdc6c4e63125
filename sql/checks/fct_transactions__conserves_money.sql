-- The ledger holds every row of the stream that speaks for its day once: count and sum of amounts
-- per currency are the stream's, whatever was joined on the way.
-- each: month
with spoken as (

    select
        currency_code(transactions.currency) as currency,
        count(*) as movements,
        sum(transactions.amount) as amount
    from transactions
    semi join int_covering_pulls as claims
        on
            transactions.account_id = claims.account_id
            and transactions.pull_id = claims.pull_id
            and utc_day(
                coalesce(
                    transactions.booked_at, transactions.value_at, transactions.transacted_at
                )
            ) between claims.claimed_from and claims.claimed_to
    group by currency_code(transactions.currency)

),

ledger as (

    select
        currency,
        count(*) as movements,
        sum(amount) as amount
    from fct_transactions
    group by currency

)

select
    coalesce(spoken.currency, ledger.currency) as currency,
    spoken.movements as stream_count,
    ledger.movements as ledger_count,
    spoken.amount as stream_amount,
    ledger.amount as ledger_amount
from spoken
full outer join ledger on spoken.currency = ledger.currency
where
    spoken.movements is distinct from ledger.movements
    or spoken.amount is distinct from ledger.amount
