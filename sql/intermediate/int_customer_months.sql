-- Which months of a customer are known completely. Every figure about a customer uses this meaning
-- of a full month.
--
-- grain:  one row per customer and Riyadh month of which anything is known
-- key:    customer_id, riyadh_month
-- stored: table
-- apart:  customer by customer_id
-- formerly: fct_customer_months
-- counts: accounts that the customer shares now, that are neither closed nor absent, and that have
--         an active consent; an account of which nothing is known leaves no month full
-- columns:
--   account_count       Number of these accounts.
--   full_account_count  Number of these accounts that are known on every day of the month.
--   is_full_month       Whether all these accounts are known on every day of the month.
-- sample: select riyadh_month, count(*) filter (where is_full_month) as customers
--         from int_customer_months group by all order by all
with held as (

    select
        owners.customer_id,
        owners.account_key,
        count(*) over (partition by owners.customer_id) as account_count
    from bridge_account_owners as owners
    inner join dim_accounts on owners.account_key = dim_accounts.account_key
    where
        owners.is_listed
        and dim_accounts.is_connected
        and dim_accounts.state not in ('closed', 'absent')

)

select
    held.customer_id,
    known.riyadh_month,
    max(held.account_count) as account_count,
    count(*) filter (where known.is_full_month) as full_account_count,
    count(*) filter (where known.is_full_month) = max(held.account_count) as is_full_month
from held
inner join int_account_months as known on held.account_key = known.account_key
group by held.customer_id, known.riyadh_month
