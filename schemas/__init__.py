"""What a record and a recipe are: Arrow schemas, the recipe model, ids and states."""
