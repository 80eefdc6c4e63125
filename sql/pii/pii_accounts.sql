-- Numbers and names behind an account's key, for people who may know whose account it is.
--
-- grain:  one row per real account
-- key:    account_key
-- stored: view
-- counts: every account that was ever listed, with the numbers and names of all its listings
-- columns:
--   account_ids                 Lean's ids that ever meant this account, sorted.
--   iban                 (pii)  IBAN as account_number spells it; null where the bank gives no
--                               IBAN.
--   masked_pans          (pii)  Its masked card numbers, * for what is masked, sorted.
--   account_holder_names (pii)  Names of its holders as banks wrote them, sorted.
--   nicknames            (pii)  Names that its holders gave it, sorted.
-- sample: select * from pii_accounts where account_key = '…'
with shown as (

    select
        bridge_accounts.account_key,
        accounts_history.account_id,
        iban_of(accounts_history.identifications) as iban,
        masked_pan_of(accounts_history.identifications) as masked_pan,
        accounts_history.account_holder_name,
        accounts_history.nickname
    from accounts_history
    inner join bridge_accounts on accounts_history.account_id = bridge_accounts.account_id

)

select
    account_key,
    list_sort(list(distinct account_id)) as account_ids,
    min(iban) as iban,
    coalesce(
        list_sort(list(distinct masked_pan) filter (where masked_pan is not null)), []
    ) as masked_pans,
    coalesce(
        list_sort(
            list(distinct account_holder_name) filter (where account_holder_name is not null)
        ),
        []
    ) as account_holder_names,
    coalesce(
        list_sort(list(distinct nickname) filter (where nickname is not null)), []
    ) as nicknames
from shown
group by account_key
