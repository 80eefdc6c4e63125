-- fct_transactions holds each row of the stream once, from the pull that covers its day: count and
-- sum of amounts per currency equal those of the stream.
-- each: month
with streamed as (

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
    coalesce(streamed.currency, ledger.currency) as currency,
    streamed.movements as stream_count,
    ledger.movements as ledger_count,
    streamed.amount as stream_amount,
    ledger.amount as ledger_amount
from streamed
full outer join ledger on streamed.currency = ledger.currency
where
    streamed.movements is distinct from ledger.movements
    or streamed.amount is distinct from ledger.amount
