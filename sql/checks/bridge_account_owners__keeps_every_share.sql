-- Every customer who ever shared an account is among its owners.
select
    bridge_accounts.account_key,
    bridge_accounts.customer_id
from bridge_accounts
left join bridge_account_owners
    on
        bridge_accounts.account_key = bridge_account_owners.account_key
        and bridge_accounts.customer_id = bridge_account_owners.customer_id
where bridge_account_owners.account_key is null and bridge_accounts.customer_id is not null
