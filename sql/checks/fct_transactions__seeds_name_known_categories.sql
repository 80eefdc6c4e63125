-- Every category that a seed names is in categories, and no key stands twice in a seed.
with named as (

    select
        'mcc_categories' as seed,
        mcc_from as entry,
        category
    from mcc_categories

    union all

    select
        'type_categories' as seed,
        concat_ws('/', transaction_type, sub_transaction_type) as entry,
        category
    from type_categories

    union all

    select
        'flag_categories' as seed,
        flag as entry,
        category
    from flag_categories

)

select
    named.seed,
    named.entry,
    count(*) as entries,
    count(categories.category) as known
from named
left join categories on named.category = categories.category
group by named.seed, named.entry
having count(*) > 1 or count(categories.category) < count(*)
