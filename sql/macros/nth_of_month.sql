-- The day with a given number in the month of a date; the last day if the month is shorter.
create or replace macro nth_of_month(inside, wanted) as
date_trunc('month', inside)::date + least(wanted, day(last_day(inside)))::integer - 1;
