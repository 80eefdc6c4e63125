-- Money in and out by month in SAR, own transfers apart
select
    strftime(booking_month, '%Y-%m') as month,
    sum(inflow_amount) as money_in,
    sum(outflow_amount) as money_out,
    sum(internal_out_amount) as own_transfers,
    count(*) filter (where is_full_month) as full_months,
    count(*) as accounts
from fct_cash_flow_monthly
where currency = 'SAR'
group by all
order by month desc
limit 6
