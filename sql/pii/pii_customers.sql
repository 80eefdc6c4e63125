-- Names and contact details of a customer as the banks know them, for people who may know them.
--
-- grain:  one row per customer whose identity was ever read
-- key:    customer_id
-- stored: view
-- counts: every identity that any of the customer's entities ever showed; several values of a kind
--         are spellings of several banks, or a change
-- columns:
--   customer_id               Lean's id of the customer.
--   legal_names        (pii)  Full legal names, sorted.
--   names              (pii)  Names, sorted.
--   national_ids       (pii)  National id or iqama numbers, sorted.
--   mobile_numbers     (pii)  Mobile numbers as banks wrote them, sorted.
--   email_addresses    (pii)  E-mail addresses, sorted.
-- sample: select * from pii_customers where customer_id = '…'
with owners as (

    select distinct
        entity_id,
        customer_id
    from entities_history

)

select
    owners.customer_id,
    coalesce(
        list_sort(
            list(distinct people.full_legal_name) filter (where people.full_legal_name is not null)
        ),
        []
    ) as legal_names,
    coalesce(
        list_sort(list(distinct people.name) filter (where people.name is not null)), []
    ) as names,
    coalesce(
        list_sort(
            list(distinct people.national_id) filter (where people.national_id is not null)
        ),
        []
    ) as national_ids,
    coalesce(
        list_sort(
            list(distinct people.mobile_number) filter (where people.mobile_number is not null)
        ),
        []
    ) as mobile_numbers,
    coalesce(
        list_sort(
            list(distinct people.email_address) filter (where people.email_address is not null)
        ),
        []
    ) as email_addresses
from identity_history as people
inner join owners on people.entity_id = owners.entity_id
group by owners.customer_id
