  // A row in registers x0, x1, … and r = 1 / √(mean(x²) + ε): what kernels have in the place of ROW. They have x, the
  // workgroup's number `block`, and parameters with rows, groups (V of a row), columns and epsilon.
  let t = row_lane(index);
  let row = block * ROWS + t.y;
  let base = min(row, params.rows - 1u) * params.groups;
  #{let k# = t.x + #u * LANES;
  let x# = x[base + min(k#, params.groups - 1u)];}#
  var squares = V(0.0);
  #{squares += select(V(0.0), x# * x#, k# < params.groups);}#
  let sum = row_sum(total(squares), t.x, t.y);
  let r = 1.0 / sqrt(sum / params.columns + params.epsilon);
