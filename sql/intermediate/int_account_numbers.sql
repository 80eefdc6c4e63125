-- Keyed hashes of each account's own numbers, by which another record's number is recognised as the
-- account's own without being shown.
--
-- grain:  one row per real account
-- key:    account_key
-- stored: table
-- formerly: bridge_account_numbers
-- counts: every number that any listing of any of its ids ever showed
-- columns:
--   own_keys     Keyed hashes of what its numbers are recognised by, sorted; see own_number_forms.
--   own_endings  Last two characters of its numbers, sorted: a number that ends otherwise is none
--                of its own, which spares the hash.
--   is_numbered  Whether any of its numbers is told whole, so that a number which is not among them
--                is another account's.
--   is_card      Whether it is a credit or charge card, whose repayments pay for what was bought.
-- cleared: own_keys (keyed hashes), own_endings (two characters), is_numbered (whether it has one)
-- sample: select is_numbered, count(*) as accounts from int_account_numbers group by all
with collected as (

    select
        bridge_accounts.account_key,
        list_sort(list_distinct(flatten(
            list(account_numbers(accounts_history.identifications))
        ))) as numbers,
        bool_or(is_numbered(accounts_history.identifications)) as is_numbered,
        bool_or(
            coalesce(accounts_history.account_sub_type in ('CREDIT', 'CHARGE_CARD'), false)
        ) as is_card
    from accounts_history
    inner join bridge_accounts on accounts_history.account_id = bridge_accounts.account_id
    group by bridge_accounts.account_key

)

select
    account_key,
    list_sort(
        list_transform(own_number_forms(numbers), lambda form: keyed_hash(form))
    ) as own_keys,
    list_sort(
        list_distinct(list_transform(numbers, lambda number: right(number, 2)))
    ) as own_endings,
    is_numbered,
    is_card
from collected
