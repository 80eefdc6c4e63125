-- The calendar holds the day of the lake's clock and the two years after it.
select
    clock.as_of_date,
    max(dim_dates.calendar_date) as last_date
from clock
cross join dim_dates
group by clock.as_of_date
having clock.as_of_date + 731 > max(dim_dates.calendar_date)
