module example

go 1.27

require aieng v0.0.0

replace aieng => ../../../ffi/go
