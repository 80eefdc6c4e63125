-- The cash flow of each currency holds every booked movement of fct_transactions once, to the last
-- digit.
with ledger as (

    select
        currency,
        count(*) as booked_count,
        count(*) filter (where signed_amount is null) as unknown_sign_count,
        coalesce(sum(signed_amount), 0) as net_amount
    from fct_transactions
    where is_booked
    group by currency

),

flows as (

    select
        currency,
        sum(booked_count) as booked_count,
        sum(unknown_sign_count) as unknown_sign_count,
        sum(inflow_amount) - sum(outflow_amount)
        + sum(internal_in_amount) - sum(internal_out_amount) as net_amount
    from fct_cash_flow_daily
    group by currency

)

select
    coalesce(ledger.currency, flows.currency) as currency,
    ledger.booked_count as ledger_count,
    flows.booked_count as flow_count,
    ledger.net_amount as ledger_amount,
    flows.net_amount as flow_amount
from ledger
full outer join flows on ledger.currency = flows.currency
where
    ledger.booked_count is distinct from flows.booked_count
    or ledger.unknown_sign_count is distinct from flows.unknown_sign_count
    or ledger.net_amount is distinct from flows.net_amount
