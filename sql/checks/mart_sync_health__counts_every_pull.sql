-- Pulls, rows and requests add up to those of the ledger.
with ledger as (

    select
        count(*) as pull_count,
        coalesce(sum(rows), 0) as row_count,
        coalesce(sum(requests), 0) as request_count
    from pulls

),

health as (

    select
        coalesce(sum(pull_count), 0) as pull_count,
        coalesce(sum(row_count), 0) as row_count,
        coalesce(sum(request_count), 0) as request_count
    from mart_sync_health

)

select
    ledger.pull_count as ledger_pulls,
    health.pull_count as health_pulls
from ledger
cross join health
where
    ledger.pull_count <> health.pull_count
    or ledger.row_count <> health.row_count
    or ledger.request_count <> health.request_count
