-- A day of the month of a date, the last one where the month has fewer.
create or replace macro nth_of_month(inside, wanted) as
date_trunc('month', inside)::date + least(wanted, day(last_day(inside)))::integer - 1;
