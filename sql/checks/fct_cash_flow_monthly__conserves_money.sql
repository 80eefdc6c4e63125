-- Months add up to their days: counts and money per currency are the same in both.
-- each: month
with days as (

    select
        currency,
        sum(booked_count) as booked_count,
        sum(inflow_amount) as inflow_amount,
        sum(outflow_amount) as outflow_amount,
        sum(internal_in_amount) as internal_in_amount,
        sum(internal_out_amount) as internal_out_amount
    from fct_cash_flow_daily
    group by currency

),

months as (

    select
        currency,
        sum(booked_count) as booked_count,
        sum(inflow_amount) as inflow_amount,
        sum(outflow_amount) as outflow_amount,
        sum(internal_in_amount) as internal_in_amount,
        sum(internal_out_amount) as internal_out_amount
    from fct_cash_flow_monthly
    group by currency
    having sum(booked_count) > 0

)

select
    coalesce(days.currency, months.currency) as currency,
    days.booked_count as day_count,
    months.booked_count as month_count,
    days.inflow_amount as day_inflow_amount,
    months.inflow_amount as month_inflow_amount,
    days.outflow_amount as day_outflow_amount,
    months.outflow_amount as month_outflow_amount
from days
full outer join months on days.currency = months.currency
where
    days.booked_count is distinct from months.booked_count
    or days.inflow_amount is distinct from months.inflow_amount
    or days.outflow_amount is distinct from months.outflow_amount
    or days.internal_in_amount is distinct from months.internal_in_amount
    or days.internal_out_amount is distinct from months.internal_out_amount
