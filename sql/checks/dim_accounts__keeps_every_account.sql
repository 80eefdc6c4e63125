-- Every account that was ever listed is in the table, and no other account is.
select
    coalesce(bridge_accounts.account_key, dim_accounts.account_key) as account_key,
    bridge_accounts.account_id
from bridge_accounts
full outer join dim_accounts on bridge_accounts.account_key = dim_accounts.account_key
where bridge_accounts.account_key is null or dim_accounts.account_key is null
