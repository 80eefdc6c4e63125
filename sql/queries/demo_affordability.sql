-- What can customers afford? By the rules of a seed, with evidence behind each number
select
    left(customer_id, 8) as customer,
    salary,
    obligations,
    headroom,
    verdict,
    coalesce(unknown_reason, '') as because
from fct_affordability
order by headroom desc nulls last, customer asc
limit 6
