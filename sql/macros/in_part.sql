-- Whether a day lies in the month that is being built. With it, a model that reads its neighbours
-- too can drop their rows early. Every day does where a model is not built by month. It is the
-- month that the model is stored by, in whatever calendar.
create or replace macro in_part(input) as
input between coalesce(getvariable('part_from'), input) and coalesce(getvariable('part_to'), input);
