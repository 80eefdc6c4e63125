-- Does it add up? Movements against what banks state, by account and day
select
    verdict,
    coalesce(reason, '') as reason,
    count(*) as account_days,
    count(distinct account_key) as accounts,
    sum(gap_amount) as gaps
from mart_balance_reconciliation
group by all
order by account_days desc
limit 6
